"""The transformers Trainer, taught to train on packs: windows one after another under a budget of tokens, no padding.

An optimizer step is a number of windows, as published recipes have it. How many tokens go through the encoder at a time
is a matter of memory alone, so a step's windows are split into packs whose gradients add up to those of the mean over
all segments of its windows, whatever the packs are.
"""

import copy
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from rich.console import Console
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer

from gpner.dataset import Feature
from gpner.errors import DocumentError, TrainingError
from gpner.evaluation import Evaluation, Scores, evaluate, evaluate_extractor
from gpner.examples import Example
from gpner.extractor import Extractor, place
from gpner.loss import n_segments
from gpner.model import GlobalPointerForEntities
from gpner.packing import pack_by_length
from gpner.training_options import TrainingOptions

logger = logging.getLogger(__name__)

# How many documents an error names; a step may hold hundreds.
NAMED_DOCUMENTS = 20


def collate(features: Sequence[Feature], *, segment_tokens: int) -> dict[str, Any]:
    """Concatenate windows into one pack: the arguments of the model's `forward`."""
    spans = [(document, *span) for document, feature in enumerate(features) for span in feature.spans]
    return {
        "input_ids": torch.tensor([token for feature in features for token in feature.token_ids]),
        "lengths": torch.tensor([len(feature.token_ids) for feature in features]),
        "contents": torch.tensor([(feature.prefix, feature.prefix + feature.n_content) for feature in features]),
        "spans": torch.tensor(spans, dtype=torch.long).reshape(-1, 4),
        "segment_tokens": segment_tokens,
    }


def collate_step(features: Sequence[Feature], *, max_pack_tokens: int, segment_tokens: int) -> dict[str, Any]:
    """Divide the windows of an optimizer step into packs.

    Args:
        features: The windows.
        max_pack_tokens: Most tokens in a pack; a window that has more is a pack by itself.
        segment_tokens: Length of the loss' segments.

    Returns:
        `packs`, each as `collate` makes them; how many `segments` each holds; and `example_ids`, the documents that the
        windows are from.
    """
    packs = [
        [features[index] for index in pack]
        for pack in pack_by_length([len(feature.token_ids) for feature in features], max_pack_tokens)
    ]
    return {
        "packs": [collate(pack, segment_tokens=segment_tokens) for pack in packs],
        "segments": [sum(n_segments(feature.n_content, segment_tokens) for feature in pack) for pack in packs],
        "example_ids": list(dict.fromkeys(feature.example_id for feature in features)),
    }


class SpanTrainer(Trainer):
    """Trainer with packs, two learning rates, and evaluation through the `Extractor`."""

    def __init__(self, *, options: TrainingOptions, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.options = options
        self._previous_ids: list[str] = []

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over four groups: encoder and head, with and without decay. Fused: one kernel for all weights."""
        trained = cast(nn.Module, self.model)
        decayed = set(self.get_decay_parameter_names(cast(PreTrainedModel, trained)))
        groups: dict[tuple[bool, bool], list[Tensor]] = {}
        for name, parameter in trained.named_parameters():
            if parameter.requires_grad:
                groups.setdefault((_belongs_to_head(name), name in decayed), []).append(parameter)
        rates = {True: self.options.head_learning_rate, False: self.options.encoder_learning_rate}
        self.optimizer = torch.optim.AdamW(
            [
                {"params": parameters, "lr": rates[head], "weight_decay": self.args.weight_decay if decay else 0.0}
                for (head, decay), parameters in groups.items()
            ],
            fused=True,
        )
        return self.optimizer

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Forward and backward over the packs of one optimizer step, as `collate_step` makes it.

        Returns:
            This process' part of the mean loss over the labels and the segments of the step's windows, those of all
            processes; the mean of the parts is the loss.

        Raises:
            TrainingError: If it is not a finite number.
        """
        model.train()
        packs, segments = inputs["packs"], inputs["segments"]
        of_all = self.accelerator.reduce(torch.tensor(sum(segments), device=self.args.device), reduction="sum")
        total = torch.zeros((), device=self.args.device)
        for pack, of_pack in zip(packs, segments, strict=True):
            # Processes have different numbers of packs: they add up their gradients once, in the last one's backward.
            with nullcontext() if pack is packs[-1] else self.accelerator.no_sync(model):
                # The processes' gradients will be averaged.
                share = of_pack * self.args.world_size / cast(Tensor, of_all)
                loss = cast(Tensor, self.compute_loss(model, pack)) * share
                self.accelerator.backward(loss)
            total += loss.detach()
        self._check_finite(total, inputs["example_ids"])
        return total

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Count the encoder's operations in a step; a backward pass takes twice those of its forward pass."""
        lengths = [length for pack in inputs["packs"] for length in pack["lengths"].tolist()]
        return 3 * int(cast(Any, self.model).flops(lengths))

    def evaluate(self, *arguments: Any, metric_key_prefix: str = "eval", **options: Any) -> dict[str, float]:
        """Score the dev examples strictly, over the whole corpus; each process takes its share of the documents."""
        dev = cast(Sequence[Example], self.eval_dataset)
        finished = finished_copy(cast(nn.Module, self.model))
        place(finished, self.args.device)
        extractor = Extractor(finished, cast(Any, self.processing_class), model_name="training")
        scores = score_on_dev(extractor, dev[self.args.process_index :: self.args.world_size]).micro
        counts = torch.tensor([scores.gold, scores.found, scores.correct], device=self.args.device)
        scores = Scores(*cast(Tensor, self.accelerator.reduce(counts, reduction="sum")).tolist())
        metrics = {f"{metric_key_prefix}_{name}": getattr(scores, name) for name in ("precision", "recall", "f1")}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _check_finite(self, loss: Tensor, example_ids: list[str]) -> None:
        # A gradient that is not finite shows one step later, in the loss of weights that it has spoilt.
        if not torch.isfinite(loss):
            suspects = list(dict.fromkeys([*example_ids, *self._previous_ids]))
            others = f" and {len(suspects) - NAMED_DOCUMENTS} more" if len(suspects) > NAMED_DOCUMENTS else ""
            raise TrainingError(
                f"the loss must be a finite number, at step {self.state.global_step + 1} it was: {loss.item()}; lower "
                "--encoder-learning-rate and --head-learning-rate, and look at the documents of this step and the one "
                f"before: {', '.join(suspects[:NAMED_DOCUMENTS])}{others}"
            )
        self._previous_ids = example_ids


def score_on_dev(extractor: Extractor, examples: Sequence[Example]) -> Evaluation:
    """Score what is found in examples: nothing, if the model fires everywhere, which standard error then says.

    One that has learnt little yet does so, and shall not end a run for it.
    """
    try:
        return evaluate_extractor(extractor, examples)
    except DocumentError as error:
        logger.warning("scored as nothing found: %s", error)
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"scored as nothing found: {error}", markup=False)
        return evaluate([example.entities for example in examples], [()] * len(examples))


def with_adapters(model: GlobalPointerForEntities, rank: int) -> PeftModel:
    """Freeze the encoder and put low-rank adapters on its linear layers; the head is trained whole."""
    linear = [f"encoder.{name}" for name, module in model.encoder.named_modules() if isinstance(module, nn.Linear)]
    adapters = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=linear, modules_to_save=["head"])
    return get_peft_model(model, adapters)


def finished_copy(model: nn.Module) -> GlobalPointerForEntities:
    """Copy what training works on as an ordinary model: adapters folded into the weights, no autocast around it."""
    copied = copy.deepcopy(model)
    # Accelerate wraps it for mixed precision; on a GPU autocast changes what a model in bf16 computes.
    copied.__dict__.pop("forward", None)
    copied.__dict__.pop("_original_forward", None)
    return cast(GlobalPointerForEntities, copied.merge_and_unload() if isinstance(copied, PeftModel) else copied)


def _belongs_to_head(name: str) -> bool:
    return "head." in name and "encoder." not in name
