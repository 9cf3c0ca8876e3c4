"""Everything that a training run depends on: one typed record that is also the command line's list of flags.

No torch here, so that `gpner train --help` answers at once.
"""

from argparse import SUPPRESS, ArgumentParser
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from gpner.errors import ConfigError


def _flag(help_text: str, default: Any = MISSING, choices: tuple[str, ...] | None = None) -> Any:
    metadata = {"help": help_text, "choices": choices}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of `gpner train`, documented by their help texts; defaults as published for GlobalPointer."""

    encoder: str = _flag("local folder or hub name of the transformers encoder to start from")
    train: Path = _flag("JSONL file of examples to learn from")
    dev: Path = _flag("JSONL file of examples that choose the best epoch")
    output: Path = _flag("folder for the checkpoint, its metrics and its model card")
    context: int = _flag("tokens in a window, special tokens included; longer documents are cut into several", 512)
    stride: int | None = _flag("tokens that two windows share; an eighth of the context if not given", None)
    head: str = _flag("span head", "efficient_global_pointer", choices=("efficient_global_pointer", "global_pointer"))
    bias_from: str = _flag(
        "what the efficient head's biases read: its projection or the encoder's state",
        "projection",
        choices=("projection", "hidden"),
    )
    head_size: int = _flag("size of the start and end vectors", 64)
    max_entity_tokens: int | None = _flag("longest entity, in tokens; no limit if not given", None)
    epochs: float = _flag("passes over the training windows", 10.0)
    batch_size: int = _flag("windows in a step, packed without padding", 16)
    accumulation: int = _flag("steps whose gradients are summed before the weights change", 1)
    encoder_learning_rate: float = _flag("peak learning rate of the encoder", 2e-5)
    head_learning_rate: float = _flag("peak learning rate of the head", 2e-4)
    warmup: float = _flag("share of all steps over which the rates rise; they fall linearly to 0 afterwards", 0.1)
    weight_decay: float = _flag("decay of all weights but biases and norms", 0.01)
    max_gradient_norm: float = _flag("gradients are clipped to this norm", 1.0)
    lora_rank: int = _flag("rank of low-rank adapters to train in place of the encoder's weights; 0 trains all", 0)
    seed: int = _flag("seed of the head's first weights, the order of the windows and dropout", 0)
    licence: str = _flag("licence that the model card names", "unknown")

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


def add_flags(parser: ArgumentParser) -> None:
    """Give a parser one flag for each option: `--head-size` for `head_size`."""
    types = get_type_hints(TrainingOptions)
    for option in fields(TrainingOptions):
        kind = next(kind for kind in (*get_args(types[option.name]), types[option.name]) if kind is not type(None))
        required = option.default is MISSING
        parser.add_argument(
            "--" + option.name.replace("_", "-"),
            type=kind,
            required=required,
            default=SUPPRESS if required else option.default,
            choices=option.metadata["choices"],
            help=option.metadata["help"],
        )
