"""Counts of entities, the rates that follow from them, and how far the rates can be trusted.

Everything is counted over the corpus. Averaging the scores of batches or documents, as many scripts do, gives another
figure that depends on how the corpus was cut.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Resamples of the documents: the ends of the interval then vary by less than a tenth of its width from seed to seed.
RESAMPLES = 1000
# Share of resamples in the interval.
CONFIDENCE = 0.95
# Fixed, so that the same scores have the same interval.
SEED = 0
# Resamples at a time; bounds the memory for a corpus of a million documents.
BLOCK_CELLS = 4_000_000


@dataclass(frozen=True, slots=True)
class Scores:
    """Counts of entities, and the rates that follow from them; a rate of nothing is 0."""

    gold: int
    found: int
    correct: int

    @property
    def precision(self) -> float:
        """The share of what was found that is right."""
        return self.correct / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        """The share of the gold entities that were found."""
        return self.correct / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        return 2 * self.correct / (self.gold + self.found) if self.gold + self.found else 0.0

    def to_dict(self) -> dict[str, float]:
        """Rates and counts, ready for JSON."""
        return {
            "precision": self.precision,
            "recall": self.recall,
            "f1": self.f1,
            "gold": self.gold,
            "found": self.found,
            "correct": self.correct,
        }


@dataclass(frozen=True, slots=True)
class MacroScores:
    """Unweighted means of the rates of `labels` labels: a rare label counts as much as a frequent one."""

    precision: float
    recall: float
    f1: float
    labels: int


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, both ends included."""

    low: float
    high: float


def macro_scores(by_label: Iterable[Scores]) -> MacroScores:
    """Average over the labels that occur in gold; one that was only found has no recall that could count."""
    rates = [(scores.precision, scores.recall, scores.f1) for scores in by_label if scores.gold]
    if not rates:
        return MacroScores(0.0, 0.0, 0.0, labels=0)
    precision, recall, f1 = (sum(column) / len(rates) for column in zip(*rates, strict=True))
    return MacroScores(precision, recall, f1, labels=len(rates))


def f1_intervals(counts: NDArray[np.int64]) -> list[Interval]:
    """Estimate how F1 would vary over other corpora of the same kind and size.

    The documents are drawn anew with replacement, as whole documents: entities of one document stand or fall together
    (percentile bootstrap: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3).

    Args:
        counts: Gold, found and correct entities of each group, in each document. Shape: (documents, groups, 3).

    Returns:
        The 95 % interval of each group's F1, over the resamples in which it occurs; 0 to 0 if it never does.
    """
    n_documents, n_groups, _ = counts.shape
    if not n_documents:
        return [Interval(0.0, 0.0)] * n_groups
    table = counts.reshape(n_documents, -1).astype(np.float64)
    generator = np.random.default_rng(SEED)
    block = max(1, BLOCK_CELLS // n_documents)
    f1 = np.concatenate(
        [
            _f1_of_resamples(table, generator, min(block, RESAMPLES - start)).reshape(-1, n_groups)
            for start in range(0, RESAMPLES, block)
        ]
    )
    f1[:, np.isnan(f1).all(axis=0)] = 0.0
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(f1, (tail, 1 - tail), axis=0)
    return [Interval(*ends) for ends in zip(low.tolist(), high.tolist(), strict=True)]


def _f1_of_resamples(table: NDArray[np.float64], generator: np.random.Generator, size: int) -> NDArray[np.float64]:
    """F1 of each group in each of `size` resamples, NaN where it does not occur. Shape: (size, groups)."""
    n_documents = len(table)
    drawn = generator.multinomial(n_documents, np.full(n_documents, 1 / n_documents), size=size)
    gold, found, correct = np.moveaxis((drawn @ table).reshape(size, -1, 3), -1, 0)
    total = gold + found
    return np.divide(2 * correct, total, out=np.full_like(total, np.nan), where=total > 0)
