"""Everything that a training run depends on: one typed record that is also the command line's list of flags.

No torch here, so that `gpner train --help` answers at once.
"""

from dataclasses import dataclass
from pathlib import Path

from gpner.errors import ConfigError
from gpner.flags import check_not_negative, check_positive, flag
from gpner.formats import READERS

DATA, MODEL, OPTIMISATION, RUN = "data", "model", "optimisation", "run"


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of `gpner train`, documented by their help texts; defaults as published for GlobalPointer."""

    train: Path = flag("examples to learn from: a file, plain or .gz, or a folder (brat)", group=DATA)
    dev: Path = flag(
        "examples that choose the best epoch; never learnt from. Every label in it must occur in --train", group=DATA
    )
    format: str = flag(
        "format of both; name it where the content leaves it open", "auto", choices=("auto", *READERS), group=DATA
    )
    strict: bool = flag(
        "stop at the first problem in the data; without it problems are listed and what they touch is left out",
        False,
        group=DATA,
    )

    encoder: str = flag(
        "transformers encoder to start from, as a local folder or a hub name; documents are tokenized by its "
        "tokenizer. A model that gpner trained lends its head too, if labels and form of the head are the same",
        group=MODEL,
    )
    context: int = flag(
        "tokens in a window, special tokens included; longer documents are cut into overlapping windows. Raise it "
        "where entities depend on text further away; past the encoder's positions (often 512) run `gpner extend` first",
        512,
        group=MODEL,
    )
    stride: int | None = flag(
        "tokens that two windows share. Raise it if metrics.json lists entities that no window holds; without it an "
        "eighth of the context, and at least --max-entity-tokens",
        None,
        group=MODEL,
    )
    head: str = flag(
        "span head. The efficient one shares its vectors among labels and has few weights; global_pointer has vectors "
        "of its own for each label, and costs time and memory for every one",
        "efficient_global_pointer",
        choices=("efficient_global_pointer", "global_pointer"),
        group=MODEL,
    )
    bias_from: str = flag(
        "what the efficient head's biases read: its projection (as published) or the encoder's state",
        "projection",
        choices=("projection", "hidden"),
        group=MODEL,
    )
    head_size: int = flag("numbers in the vectors of a span's start and end; even", 64, group=MODEL)
    max_entity_tokens: int | None = flag(
        "longest entity, in tokens. Saves time on long contexts; longer entities are never found. Without it no limit",
        None,
        group=MODEL,
    )
    lora_rank: int = flag(
        "rank of low-rank adapters that are trained in place of the encoder's weights, for small corpora or large "
        "encoders (8 to 64; they want a rate about ten times that of all weights); 0 trains all weights",
        0,
        group=MODEL,
    )

    epochs: float = flag("passes over the training windows; each ends with a score on --dev", 10.0, group=OPTIMISATION)
    patience: int = flag(
        "epochs without a better F1 on --dev after which training stops; 0 runs all epochs", 0, group=OPTIMISATION
    )
    batch_size: int = flag(
        "windows in an optimizer step, on each process. Lower it for small corpora and long contexts, so that there "
        "are more steps; memory is the concern of --max-pack-tokens",
        16,
        group=OPTIMISATION,
    )
    accumulation: int = flag(
        "makes a step of this many batches, as if --batch-size were so many times larger", 1, group=OPTIMISATION
    )
    encoder_learning_rate: float = flag(
        "peak learning rate of the encoder. The default suits BERT-base; small encoders want more: 2e-4 did best for "
        "all-MiniLM-L6-v2 on LitBank. Lower it if the loss jumps",
        2e-5,
        group=OPTIMISATION,
    )
    head_learning_rate: float = flag(
        "peak learning rate of the head, which starts from nothing: 10 to 20 times the encoder's",
        2e-4,
        group=OPTIMISATION,
    )
    warmup: float = flag(
        "share of all steps, from 0 to 1, over which the rates rise; afterwards they fall linearly to 0",
        0.1,
        group=OPTIMISATION,
    )
    loss_segment_tokens: int = flag(
        "tokens of a window that share one loss, counted by where spans begin. A loss pulls about as hard as its worst "
        "span alone, however many entities it covers, so windows much longer than this would learn slowly",
        128,
        group=OPTIMISATION,
    )
    weight_decay: float = flag("decay of all weights but biases and norms", 0.01, group=OPTIMISATION)
    max_gradient_norm: float = flag(
        "norm to which a step's gradient is clipped; raise it if training.log shows most steps above it",
        1.0,
        group=OPTIMISATION,
    )

    output: Path = flag("new folder for the checkpoint, its metrics, its model card and its logs", group=RUN)
    resume: bool = flag(
        "continue the run that --output holds from its last complete epoch, with the same result as without the break; "
        "all other flags must be those that it was started with. Starts a run where there is none yet",
        False,
        group=RUN,
    )
    max_pack_tokens: int = flag(
        "tokens that go through the encoder at a time; a step's windows are split accordingly. Changes memory and "
        "speed but no gradient: lower it if memory runs out. A longer window goes alone",
        8192,
        group=RUN,
    )
    gradient_checkpointing: bool = flag(
        "compute the encoder's inner states again in the backward pass instead of keeping them: about a third more "
        "time, a fraction of the memory. For long contexts",
        False,
        group=RUN,
    )
    seed: int = flag("seed of the head's first weights, the order of the windows and dropout", 0, group=RUN)
    licence: str = flag("licence that the model card names", "unknown", group=RUN)

    def __post_init__(self) -> None:
        check_positive(
            self,
            "epochs",
            "batch_size",
            "accumulation",
            "encoder_learning_rate",
            "head_learning_rate",
            "max_gradient_norm",
            "max_pack_tokens",
            "loss_segment_tokens",
        )
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup must be a share of all steps, from 0 to below 1, was: {self.warmup}")
        check_not_negative(self, "seed", "patience", "weight_decay")
        if self.lora_rank < 0:
            raise ConfigError(f"lora_rank must be at least 1, or 0 to train all weights, was: {self.lora_rank}")
