"""Exact-span precision, recall and F1, counted over the corpus.

An entity counts as found only if start, end and label are all right. Averaging the scores of batches or documents, as
many scripts do, gives another figure that depends on how the corpus was cut.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from gpner.dataset import Example
from gpner.errors import DataError
from gpner.extractor import Extractor


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
class Evaluation:
    """Scores over all entities, and for every label that occurs in gold or found, by name."""

    micro: Scores
    by_label: dict[str, Scores]

    def to_dict(self) -> dict[str, Any]:
        """All scores, ready for JSON."""
        by_label = {label: scores.to_dict() for label, scores in self.by_label.items()}
        return {"micro": self.micro.to_dict(), "by_label": by_label}


def evaluate(
    gold: Sequence[Collection[tuple[int, int, str]]], found: Sequence[Collection[tuple[int, int, str]]]
) -> Evaluation:
    """Compare what was found with what is right.

    Args:
        gold: Of each document its entities: start, end (exclusive), label. One given twice counts once.
        found: The same of what was found, in the same order of documents.

    Raises:
        DataError: If the two are not of the same number of documents.
    """
    if len(gold) != len(found):
        raise DataError(f"gold and found must be of the same documents, were: {len(gold)} and {len(found)}")
    gold_counts, found_counts, correct_counts = Counter[str](), Counter[str](), Counter[str]()
    for right, candidates in zip(map(set, gold), map(set, found), strict=True):
        gold_counts.update(label for _, _, label in right)
        found_counts.update(label for _, _, label in candidates)
        correct_counts.update(label for _, _, label in right & candidates)
    by_label = {
        label: Scores(gold_counts[label], found_counts[label], correct_counts[label])
        for label in sorted(gold_counts | found_counts)
    }
    micro = Scores(gold_counts.total(), found_counts.total(), correct_counts.total())
    return Evaluation(micro, by_label)


def evaluate_extractor(extractor: Extractor, examples: Sequence[Example]) -> Evaluation:
    """Extract from the texts of examples and score what was found."""
    extractions = extractor.extract_iter(example.text for example in examples)
    found = [{(entity.start, entity.end, entity.label) for entity in e.entities} for e in extractions]
    return evaluate([example.entities for example in examples], found)
