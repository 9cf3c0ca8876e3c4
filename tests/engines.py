"""Deterministic engines without a model, for real workers in tests: every run of capital letters is an entity.

A token is a word. Words that begin with `!` are orders: `!raise`, `!hang`, `!crash`, `!oom` (the kernel kills it),
`!eat` (more memory than there is), and to the tokenizer `!untokenizable` and `!stall`.
"""

import os
import re
import resource
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpner.entities import Entity, Extraction
from gpner.errors import CheckpointError, OutOfMemoryError
from worker.settings import Settings

CAPITALS = re.compile(r"[A-Z]{2,}")


@dataclass(frozen=True)
class Words:
    text: str
    n_window_tokens: int


@dataclass(frozen=True)
class Run:
    extractions: list[Extraction]
    forward_seconds: float
    decode_seconds: float = 0.0
    flops: int = 0


class CapitalsEngine:
    def __init__(
        self,
        settings: Settings,
        *,
        seconds_per_token: float = 0.0,
        memory_tokens: int = 1_000_000_000,
        warm_up_seconds: float = 0.0,
    ) -> None:
        self.model_name = "capitals"
        self.model_revision = "0123456789ab"
        self.labels = ("WORD", "LONG")
        self.peak_flops = 1e9
        self.max_batch_tokens = settings.max_batch_tokens or 4096
        self.runs: list[list[str]] = []
        self._seconds_per_token = seconds_per_token
        self._memory_tokens = memory_tokens
        self._warm_up_seconds = warm_up_seconds

    def tokenize(self, texts: Sequence[str]) -> list[Words]:
        if any("!untokenizable" in text for text in texts):
            raise ValueError("a text cannot be tokenized")
        if any("!stall" in text for text in texts):
            time.sleep(3600)
        return [Words(text, len(text.split())) for text in texts]

    def run(self, documents: Sequence[Words]) -> Run:
        started = time.perf_counter()
        self.runs.append([document.text for document in documents])
        tokens = sum(document.n_window_tokens for document in documents)
        if tokens > self._memory_tokens:
            raise OutOfMemoryError(f"{self._memory_tokens} tokens fit, was: {tokens}")
        for document in documents:
            self._obey(document.text)
        time.sleep(tokens * self._seconds_per_token)
        return Run([extract(document.text) for document in documents], time.perf_counter() - started, flops=tokens)

    def warm_up(self) -> None:
        time.sleep(self._warm_up_seconds)

    def _obey(self, text: str) -> None:
        if "!raise" in text:
            raise ValueError("an order to raise")
        if "!hang" in text:
            time.sleep(3600)
        if "!crash" in text:
            _end_by(signal.SIGSEGV)
        if "!oom" in text:
            _end_by(signal.SIGKILL)
        if "!eat" in text:
            _eat()


def _end_by(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(3600)  # another thread may get it, a moment later


def _eat() -> None:
    """Allocate more than the process may have."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 256_000_000, before[1]))
    try:
        bytearray(1_000_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


class BrokenEngine(CapitalsEngine):
    """As a GPU after some faults: it warmed up, and fails ever since."""

    def run(self, documents: Sequence[Words]) -> Run:
        raise RuntimeError("the device is gone")


class NoopEngine(CapitalsEngine):
    """Costs nothing, so that what is measured is the worker."""

    def run(self, documents: Sequence[Words]) -> Run:
        return Run([Extraction((), document.n_window_tokens, 1) for document in documents], 0.0)


def extract(text: str) -> Extraction:
    """What the engines here find, for comparison."""
    entities = tuple(
        Entity(match.start(), match.end(), "LONG" if len(match[0]) > 5 else "WORD", match[0], 0.5)
        for match in CAPITALS.finditer(text)
    )
    return Extraction(entities, tokens=len(text.split()), windows=1)


def load_capitals(settings: Settings) -> CapitalsEngine:
    return CapitalsEngine(settings)


def load_slow(settings: Settings) -> CapitalsEngine:
    """A hundred tokens a second."""
    return CapitalsEngine(settings, seconds_per_token=0.01)


def load_small_memory(settings: Settings) -> CapitalsEngine:
    return CapitalsEngine(settings, memory_tokens=20)


def load_late(settings: Settings) -> CapitalsEngine:
    return CapitalsEngine(settings, warm_up_seconds=1.0)


def load_never_warm(settings: Settings) -> CapitalsEngine:
    return CapitalsEngine(settings, warm_up_seconds=3600)


def load_named(settings: Settings) -> CapitalsEngine:
    """As checkpoints: GPNER_MODEL names the model, and one called broken does not load."""
    if settings.model == "broken":
        raise CheckpointError("a model must not be broken, this one is")
    engine = CapitalsEngine(settings, seconds_per_token=0.002)
    engine.model_name, engine.model_revision = settings.model, f"revision of {settings.model}"
    return engine


def load_noop(settings: Settings) -> NoopEngine:
    return NoopEngine(settings)


def load_broken(settings: Settings) -> BrokenEngine:
    return BrokenEngine(settings)
