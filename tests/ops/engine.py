"""An engine for workers that are to be measured: scores and windows that differ, memory that runs out."""

import zlib
from collections.abc import Sequence
from dataclasses import replace

from gpner.entities import Entity, Extraction
from tests.engines import CapitalsEngine, Run, Words
from worker.settings import Settings

SECONDS_PER_TOKEN = 0.001
MEMORY_TOKENS = 400
FLOPS_PER_TOKEN = 700_000
CONTEXT = 60


class MeasuredEngine(CapitalsEngine):
    """Finds what CapitalsEngine finds, 1,000 tokens a second, with the score that the document and the word give it."""

    def run(self, documents: Sequence[Words]) -> Run:
        """Run, and pretend to a context and to arithmetic."""
        result = super().run(documents)
        extractions = [_dressed(extraction) for extraction in result.extractions]
        return replace(result, extractions=extractions, flops=FLOPS_PER_TOKEN * result.flops, decode_seconds=0.001)


def load_measured(settings: Settings) -> MeasuredEngine:
    """Runs out of memory above 400 tokens."""
    return MeasuredEngine(settings, seconds_per_token=SECONDS_PER_TOKEN, memory_tokens=MEMORY_TOKENS)


def _dressed(extraction: Extraction) -> Extraction:
    entities = tuple(replace(entity, score=_score(entity)) for entity in extraction.entities)
    return Extraction(entities, extraction.tokens, windows=1 + extraction.tokens // CONTEXT)


def _score(entity: Entity) -> float:
    """Between a half and one, mostly near one; long words are less sure."""
    chance = zlib.crc32(f"{entity.text} {entity.start}".encode()) / 2**32
    return 1 - 0.5 * chance ** (3 if entity.label == "WORD" else 1.5)
