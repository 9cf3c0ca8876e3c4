"""The transformers Trainer for masked language modelling over packs: loss of hidden tokens, perplexity by position."""

from typing import Any, cast

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gpner.errors import DataError, TrainingError
from gpner.pretraining.data import MaskedPacks
from gpner.pretraining.model import masked_logits

# Where the positions of most pretrained tables end; perplexity is also given below and above.
SHORT_CONTEXT = 512
# How many documents an error names.
NAMED_DOCUMENTS = 20


class MaskedTrainer(Trainer):
    """Trainer whose loss is the mean over the hidden tokens of a step, however packs and processes share them."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(callbacks=[NewMasks(), SaveAfterEvaluation()], **arguments)
        # So the Trainer counts the hidden tokens of a step and leaves the division to compute_loss.
        self.model_accepts_loss_kwargs = True

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Cross-entropy of the hidden tokens; with pairs plus that of the pairs, as BERT and ALBERT add them.

        Raises:
            TrainingError: If it is not a finite number.
        """
        logits, pairs = masked_logits(model, inputs)
        labels = inputs["labels"]
        loss = cross_entropy(logits, labels, reduction="sum")
        if pairs is not None:
            loss = loss + len(labels) * cross_entropy(pairs, inputs["torn"])
        self._check_finite(loss, inputs["documents"])
        if num_items_in_batch is None:
            return loss / max(len(labels), 1)
        # The tokens are counted over all processes, and their gradients will be averaged.
        return loss * self.args.world_size / max(int(num_items_in_batch), 1)

    def evaluate(self, *arguments: Any, metric_key_prefix: str = "eval", **options: Any) -> dict[str, float]:
        """Measure perplexity on the packs of `eval_dataset`, whose masks are the same every time.

        Each process takes its share of the packs.

        Returns:
            Loss and perplexity, of all hidden tokens and of those below and from position 512 on, and the share of
            pairs that were told right.

        Raises:
            DataError: If nothing is hidden in the texts.
        """
        shares = gather_object([self._predict(cast(MaskedPacks, self.eval_dataset))])
        losses, positions, right = (torch.cat(parts) for parts in zip(*shares, strict=True))
        if not len(losses):
            raise DataError(
                "texts to evaluate on must hold a word that can be hidden, each is more than 15 % of its text; give "
                "longer texts"
            )
        metrics = {"loss": losses.mean().item(), "perplexity": losses.mean().exp().item()}
        for name, inside in (("short", positions < SHORT_CONTEXT), ("long", positions >= SHORT_CONTEXT)):
            if inside.any():
                metrics[f"perplexity_{name}"] = losses[inside].mean().exp().item()
                metrics[f"tokens_{name}"] = int(inside.sum())
        if len(right):
            metrics["pair_accuracy"] = right.float().mean().item()
        metrics = {f"{metric_key_prefix}_{name}": figure for name, figure in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @torch.no_grad()
    def _predict(self, packs: MaskedPacks) -> tuple[Tensor, Tensor, Tensor]:
        """Loss and position of every hidden token of this process' packs, and whether each pair was told right."""
        model = cast(nn.Module, self.model)
        model.eval()
        nothing = torch.empty(0)
        losses, positions, right = [nothing.double()], [nothing.long()], [nothing.bool()]
        for number in range(self.args.process_index, len(packs), self.args.world_size):
            batch = self._prepare_inputs(packs[number])
            with torch.autocast(self.args.device.type, dtype=torch.bfloat16, enabled=self.args.bf16):
                logits, pairs = masked_logits(model, batch)
            losses.append(cross_entropy(logits, batch["labels"], reduction="none").double().cpu())
            positions.append(torch.cat([torch.arange(n) for n in batch["lengths"].tolist()])[batch["chosen"].cpu()])
            if pairs is not None:
                right.append((pairs.argmax(dim=-1) == batch["torn"]).cpu())
        return torch.cat(losses), torch.cat(positions), torch.cat(right)

    def _check_finite(self, loss: Tensor, documents: list[str]) -> None:
        if not torch.isfinite(loss):
            named = list(dict.fromkeys(documents))
            others = f" and {len(named) - NAMED_DOCUMENTS} more" if len(named) > NAMED_DOCUMENTS else ""
            raise TrainingError(
                f"the loss must be a finite number, at step {self.state.global_step + 1} it was: {loss.item()}; lower "
                f"--learning-rate, and look at the documents: {', '.join(named[:NAMED_DOCUMENTS])}{others}"
            )


class NewMasks(TrainerCallback):
    """Tells the packs which epoch it is, so that each hides other tokens, and a resumed one the same."""

    def on_epoch_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """Set the number of the epoch, which a resumed run begins in its middle."""
        train_dataloader.dataset.epoch = int(state.epoch or 0)


class SaveAfterEvaluation(TrainerCallback):
    """Puts off the checkpoint that falls on an epoch's last step until the epoch is evaluated.

    Else a run that is killed between the two would go on without the evaluation.
    """

    def __init__(self) -> None:
        self.put_off = False

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save later, if this is the last step of an epoch or of all."""
        ends = (state.epoch or 0.0).is_integer() or state.global_step >= state.max_steps
        self.put_off = control.should_save and ends
        if self.put_off:
            control.should_save = False

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save now: the Trainer evaluates first."""
        if self.put_off:
            control.should_save = True
