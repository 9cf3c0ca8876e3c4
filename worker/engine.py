"""What the worker asks of a model, and how it comes by one.

The worker knows a model only through `Engine`, so that its own behaviour (batching, faults, draining) can be tested
with an engine of a few lines, and so that a new release of the model changes nothing here.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from gpner.entities import Extraction
from gpner.errors import ConfigError
from worker.budget import ORDINARY_TOKENS
from worker.settings import Settings, cache_folder


class Tokenized(Protocol):
    """A document that is ready for the device."""

    @property
    def n_window_tokens(self) -> int:
        """What the document costs in a pack: the tokens of all its windows, special tokens included."""
        ...


class RunResult(Protocol):
    """What one run over tokenized documents gave, in their order, and what it took."""

    @property
    def extractions(self) -> Sequence[Extraction]:
        """One extraction per document."""
        ...

    @property
    def forward_seconds(self) -> float:
        """Time in encoder and head."""
        ...

    @property
    def decode_seconds(self) -> float:
        """Time from scores to entities."""
        ...

    @property
    def flops(self) -> int:
        """Arithmetic that the model needs for these documents, 0 if the engine does not know."""
        ...


class Engine(Protocol):
    """A model as the worker sees it; `gpner.extractor.Extractor` is one.

    Attributes:
        model_name: What results call the model.
        model_revision: A short hash of its content, so that results of a model and of its successor can be told apart.
        labels: The labels it knows.
        max_batch_tokens: Most tokens in one forward; once loaded what suits the engine, 0 if it does not know. A number
            that the operator set wins, and the worker lowers it when the device runs out of memory.
        peak_flops: What the device does on large matrix products, in operations a second, known after `warm_up`; 0 if
            the engine does not know.
    """

    model_name: str
    model_revision: str
    labels: tuple[str, ...]
    max_batch_tokens: int
    peak_flops: float

    def tokenize(self, texts: Sequence[str]) -> Sequence[Tokenized]:
        """Prepare texts for `run`. Called from several threads at once."""
        ...

    def run(self, documents: Sequence[Any]) -> RunResult:
        """Extract from documents that `tokenize` prepared. Called from one thread only.

        Raises:
            OutOfMemoryError: If the device cannot hold them together.
        """
        ...

    def warm_up(self) -> None:
        """Do all first-time work, so that no document waits for it."""
        ...


def load_extractor(settings: Settings) -> Engine:
    """Load the model that `GPNER_MODEL` names. The default of `GPNER_ENGINE`.

    Unless the settings say how large batches are, it is found out, which takes seconds for a model that is new here.

    Raises:
        CheckpointError: If there is no such model.
        ConfigError: If the model is to run in int8, and cannot, or would find too much else.
        OutOfMemoryError: If the device cannot hold even a small batch.
    """
    from gpner.process import prepare_process

    prepare_process()
    import torch
    from transformers.utils.logging import disable_progress_bar

    from gpner.agreement import require_agreement
    from gpner.extractor import Extractor, Precision
    from worker.batch_tokens import choose_batch_tokens

    disable_progress_bar()  # a log is no terminal
    if settings.cpu_threads:
        torch.set_num_threads(settings.cpu_threads)
    batch_tokens = settings.max_batch_tokens or ORDINARY_TOKENS

    def load(precision: Precision) -> Extractor:
        return Extractor.from_pretrained(
            settings.model,
            device=settings.device,
            precision=precision,
            max_batch_tokens=batch_tokens,
            flat=settings.flat,
        )

    extractor = load(settings.precision)
    if settings.precision == "int8":
        require_agreement(extractor, load("auto"), [_read(settings.agree_on)])
    if not settings.max_batch_tokens:
        extractor.max_batch_tokens = choose_batch_tokens(extractor, cache_folder())
    return extractor


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"GPNER_AGREE_ON must name a text file in UTF-8, was: {path} ({error})") from error


def load_engine(settings: Settings) -> Engine:
    """Call the function that `GPNER_ENGINE` names as `module:function`, with the settings, and return its engine.

    Raises:
        ConfigError: If there is no such function.
    """
    module_name, _, function_name = settings.engine.partition(":")
    try:
        loader = getattr(import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"GPNER_ENGINE must name a function as module:function, was: {settings.engine} ({error}); "
            "leave it unset for gpner's own model"
        ) from error
    engine: Engine = loader(settings)
    engine.max_batch_tokens = engine.max_batch_tokens or ORDINARY_TOKENS
    return engine
