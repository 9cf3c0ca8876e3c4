"""Everything that a training run depends on: one typed record that is also the command line's list of flags.

No torch here, so that `gpner train --help` answers at once.
"""

from dataclasses import dataclass
from pathlib import Path

from gpner.errors import ConfigError
from gpner.flags import flag


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of `gpner train`, documented by their help texts; defaults as published for GlobalPointer."""

    encoder: str = flag("local folder or hub name of the transformers encoder to start from")
    train: Path = flag("JSONL file of examples to learn from")
    dev: Path = flag("JSONL file of examples that choose the best epoch")
    output: Path = flag("folder for the checkpoint, its metrics and its model card")
    context: int = flag("tokens in a window, special tokens included; longer documents are cut into several", 512)
    stride: int | None = flag("tokens that two windows share; an eighth of the context if not given", None)
    head: str = flag("span head", "efficient_global_pointer", choices=("efficient_global_pointer", "global_pointer"))
    bias_from: str = flag(
        "what the efficient head's biases read: its projection or the encoder's state",
        "projection",
        choices=("projection", "hidden"),
    )
    head_size: int = flag("size of the start and end vectors", 64)
    max_entity_tokens: int | None = flag("longest entity, in tokens; no limit if not given", None)
    epochs: float = flag("passes over the training windows", 10.0)
    batch_size: int = flag("windows in a step, packed without padding", 16)
    accumulation: int = flag("steps whose gradients are summed before the weights change", 1)
    encoder_learning_rate: float = flag("peak learning rate of the encoder", 2e-5)
    head_learning_rate: float = flag("peak learning rate of the head", 2e-4)
    warmup: float = flag("share of all steps over which the rates rise; they fall linearly to 0 afterwards", 0.1)
    weight_decay: float = flag("decay of all weights but biases and norms", 0.01)
    max_gradient_norm: float = flag("gradients are clipped to this norm", 1.0)
    lora_rank: int = flag("rank of low-rank adapters to train in place of the encoder's weights; 0 trains all", 0)
    seed: int = flag("seed of the head's first weights, the order of the windows and dropout", 0)
    licence: str = flag("licence that the model card names", "unknown")

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "batch_size",
            "accumulation",
            "encoder_learning_rate",
            "head_learning_rate",
            "max_gradient_norm",
        ):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, was: {getattr(self, name)}")
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup must be a share of all steps, from 0 to below 1, was: {self.warmup}")
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0, was: {self.seed}")
        if self.lora_rank < 0:
            raise ConfigError(f"lora_rank must be at least 1, or 0 to train all weights, was: {self.lora_rank}")
