"""Everything that a pre-training run depends on: one typed record that is also the command line's list of flags.

No torch here, so that `gpner pretrain --help` answers at once.
"""

from dataclasses import dataclass
from pathlib import Path

from gpner.errors import ConfigError
from gpner.flags import check_not_negative, check_positive, flag

TEXTS, MODEL, OPTIMISATION, RUN = "texts", "model", "optimisation", "run"
# Tokens before and after the content of a sequence, and one more between the two segments of a pair.
SPECIAL_TOKENS, PAIR_SPECIAL_TOKENS = 2, 3


@dataclass(frozen=True, kw_only=True)
class PretrainingOptions:
    """Options of `gpner pretrain`, documented by their help texts."""

    train: Path = flag(
        "texts to learn from: .txt (a file is one document), .jsonl (one on each line, key text), either as .gz or "
        ".zst, or a folder of them, folders in it included. A line that cannot be read stops the command, blank ones "
        "are counted",
        group=TEXTS,
    )
    eval: Path | None = flag("texts to evaluate on; without it a share of --train is held out", None, group=TEXTS)
    eval_share: float = flag(
        "share of the documents of --train that is held out, chosen by --seed; lower it for large corpora",
        0.2,
        group=TEXTS,
    )
    by: str = flag(
        "what is a sequence: a whole document, cut where it exceeds --context, or each line by itself. Choose line for "
        "files whose lines have nothing to do with each other",
        "document",
        choices=("document", "line"),
        group=TEXTS,
    )

    encoder: str | None = flag(
        "transformers encoder to train further, with its tokenizer, as a local folder or a hub name; one without a "
        "head for hidden words gets a new one",
        None,
        group=MODEL,
    )
    config: str | None = flag(
        "config.json of an encoder, or its folder, to start from scratch instead of --encoder", None, group=MODEL
    )
    tokenizer: str | None = flag(
        "with --config: the tokenizer, as a folder, a hub name or a vocab.txt of WordPieces", None, group=MODEL
    )
    vocab_size: int | None = flag(
        "with --config, instead of --tokenizer: learn WordPieces from the texts, at most so many", None, group=MODEL
    )
    context: int = flag(
        "tokens in a sequence, special tokens included. Choose the one that the model will be trained with; more than "
        "the encoder's positions (often 512) needs `gpner extend` first",
        512,
        group=MODEL,
    )
    sentence_objective: str | None = flag(
        "learn also of pairs of segments whether the second follows the first (nsp, for BERT) or the two are swapped "
        "(sop, for ALBERT); without it hidden words only",
        None,
        choices=("nsp", "sop"),
        group=MODEL,
    )

    epochs: float = flag(
        "passes over the texts, with other words hidden in each; each ends with a perplexity. Give more as long as it "
        "falls",
        3.0,
        group=OPTIMISATION,
    )
    batch_tokens: int = flag(
        "most tokens that go through the encoder at a time, packed without padding. Lower it if memory runs out, and "
        "raise --accumulation as much to keep the size of a step",
        8192,
        group=OPTIMISATION,
    )
    accumulation: int = flag(
        "packs in an optimizer step, on each process; all their hidden tokens weigh the same", 1, group=OPTIMISATION
    )
    learning_rate: float = flag(
        "peak learning rate; from scratch ten times the default or more. Lower it if the loss jumps",
        5e-5,
        group=OPTIMISATION,
    )
    warmup: float = flag(
        "share of all steps, from 0 to 1, over which the rate rises; afterwards it falls linearly to 0",
        0.1,
        group=OPTIMISATION,
    )
    weight_decay: float = flag("decay of all weights but biases and norms", 0.01, group=OPTIMISATION)
    max_gradient_norm: float = flag("norm to which a step's gradient is clipped", 1.0, group=OPTIMISATION)

    output: Path = flag("new folder for the encoder, its metrics, its card and its logs", group=RUN)
    save_steps: int = flag("steps between checkpoints; a kill costs at most so many", 500, group=RUN)
    resume: bool = flag(
        "continue the run that --output holds from its last checkpoint, with the same result as without the break; "
        "all other flags must be those that it was started with. Starts a run where there is none yet",
        False,
        group=RUN,
    )
    gradient_checkpointing: bool = flag(
        "compute the encoder's inner states again in the backward pass instead of keeping them: about a third more "
        "time, a fraction of the memory. For long contexts",
        False,
        group=RUN,
    )
    seed: int = flag("seed of held-out documents, packs, masks, new weights and dropout", 0, group=RUN)
    licence: str = flag("licence that the card names", "unknown", group=RUN)

    @property
    def content_tokens(self) -> int:
        """Tokens of text in a full sequence."""
        return self.context - (PAIR_SPECIAL_TOKENS if self.sentence_objective else SPECIAL_TOKENS)

    def __post_init__(self) -> None:
        if (self.encoder is None) == (self.config is None):
            raise ConfigError("exactly one of --encoder and --config must be given: go on with an encoder, or make one")
        if self.config is None and (self.tokenizer is not None or self.vocab_size is not None):
            raise ConfigError("--tokenizer and --vocab-size need --config: an encoder brings its own tokenizer")
        if self.config is not None and (self.tokenizer is None) == (self.vocab_size is None):
            raise ConfigError("--config needs exactly one of --tokenizer and --vocab-size, to know how to cut words")
        check_positive(self, "epochs", "accumulation", "learning_rate", "max_gradient_norm", "save_steps")
        self._check_shares()
        if self.content_tokens < 2:
            raise ConfigError(f"context must leave room for two tokens of text, was: {self.context}")
        if self.batch_tokens < self.context:
            raise ConfigError(f"batch_tokens must be at least the context of {self.context}, was: {self.batch_tokens}")
        check_not_negative(self, "seed", "weight_decay")

    def _check_shares(self) -> None:
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup must be a share of all steps, from 0 to below 1, was: {self.warmup}")
        if not 0 < self.eval_share < 1:
            raise ConfigError(f"eval_share must lie between 0 and 1, was: {self.eval_share}")
