"""Fine-tuning on the transformers Trainer: packed windows, two learning rates, the exact span loss.

Every evaluation runs through the `Extractor` on a copy of the model in the precision that it will be used in, so the
figures seen while training are the figures of the finished checkpoint.
"""

import copy
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, set_seed

from gpner.checkpoint import load_tokenizer, make_folder, save_checkpoint
from gpner.dataset import Example, Feature, build_features, labels_of, read_examples
from gpner.errors import DataError, DocumentError
from gpner.evaluation import Evaluation, Scores, evaluate_extractor
from gpner.extractor import Extractor, choose_device, inference_dtype, place
from gpner.model import GlobalPointerForEntities
from gpner.model_card import write_model_card
from gpner.options import TrainingOptions
from gpner.tokenization import TextTokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingReport:
    """What a finished run has to say.

    Attributes:
        dev: Scores of the kept checkpoint on the dev file.
        history: Scores of every epoch, as the Trainer logged them.
        inexpressible: Gold spans of the training file that the tokens, the windows or the longest entity rule out, as
            (example id, start, end, label); they were left out of training and count as missed in every evaluation.
        windows: Training windows.
        seconds: Duration of the training.
    """

    dev: Evaluation
    history: list[dict[str, Any]]
    inexpressible: list[tuple[str, int, int, str]]
    windows: int
    seconds: float


def collate(features: Sequence[Feature]) -> dict[str, Tensor]:
    """Concatenate windows into one pack: the arguments of the model's `forward`."""
    spans = [(document, *span) for document, feature in enumerate(features) for span in feature.spans]
    return {
        "input_ids": torch.tensor([token for feature in features for token in feature.token_ids]),
        "lengths": torch.tensor([len(feature.token_ids) for feature in features]),
        "contents": torch.tensor([(feature.prefix, feature.prefix + feature.n_content) for feature in features]),
        "spans": torch.tensor(spans, dtype=torch.long).reshape(-1, 4),
    }


class SpanTrainer(Trainer):
    """Trainer with two learning rates, and with evaluation through the `Extractor`."""

    def __init__(self, *, options: TrainingOptions, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.options = options

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW over four groups: encoder and head, with and without decay."""
        trained = cast(torch.nn.Module, self.model)
        decayed = set(self.get_decay_parameter_names(trained))
        groups: dict[tuple[bool, bool], list[Tensor]] = {}
        for name, parameter in trained.named_parameters():
            if parameter.requires_grad:
                groups.setdefault((_belongs_to_head(name), name in decayed), []).append(parameter)
        rates = {True: self.options.head_learning_rate, False: self.options.encoder_learning_rate}
        self.optimizer = torch.optim.AdamW(
            [
                {"params": parameters, "lr": rates[head], "weight_decay": self.args.weight_decay if decay else 0.0}
                for (head, decay), parameters in groups.items()
            ]
        )
        return self.optimizer

    def evaluate(self, *arguments: Any, metric_key_prefix: str = "eval", **options: Any) -> dict[str, float]:
        """Score the dev examples strictly, over the whole corpus."""
        extractor = _extractor(cast(torch.nn.Module, self.model), self.processing_class)
        try:
            scores = evaluate_extractor(extractor, cast(list[Example], self.eval_dataset)).micro
        except DocumentError as error:  # a model that has learnt nothing yet may fire everywhere
            logger.warning("scored as nothing found: %s", error)
            scores = Scores(gold=0, found=0, correct=0)
        metrics = {f"{metric_key_prefix}_{name}": getattr(scores, name) for name in ("precision", "recall", "f1")}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def train(options: TrainingOptions) -> TrainingReport:
    """Train a model and leave the best epoch's checkpoint in the output folder.

    Raises:
        DataError: If a file cannot be read, has no entities, or dev has labels that training lacks.
        CheckpointError: If the encoder cannot be loaded.
        ConfigError: If an option is out of range, or the output folder cannot be made.
    """
    make_folder(options.output)
    examples, dev = read_examples(options.train), read_examples(options.dev)
    labels = _check_labels(options, examples, dev)
    set_seed(options.seed)
    model = _new_model(options, labels)
    tokenizer = load_tokenizer(options.encoder)
    windows = TextTokenizer(tokenizer, context=model.config.context, stride=model.config.stride)
    features, inexpressible = build_features(examples, windows, labels, max_entity_tokens=options.max_entity_tokens)
    trainer = SpanTrainer(
        options=options,
        model=_with_adapters(model, options.lora_rank) if options.lora_rank else model,
        args=_arguments(options),
        train_dataset=cast(Dataset[Feature], features),
        eval_dataset=dev,
        data_collator=collate,
        processing_class=tokenizer,
    )
    outcome = trainer.train()
    if isinstance(trainer.model, PeftModel):
        trainer.model.save_pretrained(str(options.output / "adapter"))
        model.config.save_pretrained(options.output / "adapter")
    save_checkpoint(_merged(cast(torch.nn.Module, trainer.model)), tokenizer, options.output)
    report = TrainingReport(
        dev=evaluate_extractor(Extractor.from_pretrained(options.output), dev),
        history=[entry for entry in trainer.state.log_history if "eval_f1" in entry],
        inexpressible=inexpressible,
        windows=len(features),
        seconds=outcome.metrics["train_runtime"],
    )
    _write_report(options, labels, report)
    return report


def _check_labels(options: TrainingOptions, examples: Sequence[Example], dev: Sequence[Example]) -> list[str]:
    labels = labels_of(examples)
    if not labels:
        raise DataError(f"{options.train}: training needs at least one entity, the file has none; label some documents")
    unknown = sorted(set(labels_of(dev)) - set(labels))
    if unknown:
        raise DataError(
            f"{options.dev}: every label must occur in {options.train}, these do not: {', '.join(unknown)}; "
            "add examples of them or take them out"
        )
    return labels


def _new_model(options: TrainingOptions, labels: Sequence[str]) -> GlobalPointerForEntities:
    return GlobalPointerForEntities.from_encoder(
        options.encoder,
        labels=labels,
        context=options.context,
        stride=_default_stride(options) if options.stride is None else options.stride,
        head=options.head,
        bias_from=options.bias_from,
        head_size=options.head_size,
        max_entity_tokens=options.max_entity_tokens,
    )


def _default_stride(options: TrainingOptions) -> int:
    """An eighth of the context, and never less than the longest entity, so that some window holds each whole."""
    return max(options.context // 8, options.max_entity_tokens or 0)


def _with_adapters(model: GlobalPointerForEntities, rank: int) -> PeftModel:
    linear = [
        f"encoder.{name}" for name, module in model.encoder.named_modules() if isinstance(module, torch.nn.Linear)
    ]
    adapters = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=linear, modules_to_save=["head"])
    return get_peft_model(model, adapters)


def _belongs_to_head(name: str) -> bool:
    return "head." in name and "encoder." not in name


def _arguments(options: TrainingOptions) -> TrainingArguments:
    device = choose_device("auto")
    arguments = TrainingArguments(
        output_dir=str(options.output / "checkpoints"),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.accumulation,
        warmup_steps=options.warmup,  # below 1: a share of all steps
        lr_scheduler_type="linear",
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_gradient_norm,
        bf16=inference_dtype(device) is torch.bfloat16,
        use_cpu=device.type == "cpu",
        seed=options.seed,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="f1",
        logging_steps=10,
        report_to=[],
        remove_unused_columns=False,
        label_names=["spans"],
        dataloader_pin_memory=device.type == "cuda",
    )
    # With several GPUs in one process the Trainer would split each pack among them, blind to where documents end.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _merged(model: torch.nn.Module) -> GlobalPointerForEntities:
    """Return an ordinary model: adapters folded into the weights, on a copy."""
    if isinstance(model, PeftModel):
        model = copy.deepcopy(model).merge_and_unload()
    return cast(GlobalPointerForEntities, model)


def _extractor(model: torch.nn.Module, tokenizer: Any) -> Extractor:
    finished = copy.deepcopy(_merged(model))
    place(finished, next(finished.parameters()).device)
    return Extractor(finished, tokenizer, model_name="training")


def _write_report(options: TrainingOptions, labels: Sequence[str], report: TrainingReport) -> None:
    content = {
        "options": asdict(options),
        "labels": list(labels),
        "dev": report.dev.to_dict(),
        "history": report.history,
        "inexpressible": report.inexpressible,
        "windows": report.windows,
        "seconds": report.seconds,
    }
    (options.output / "metrics.json").write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    write_model_card(options.output, content)
