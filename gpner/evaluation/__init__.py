"""How well entities are found: strict scores over the corpus, and the figures that say where they come from.

An entity counts as found only if start, end and label are all right. Only `boundaries` and `types` are more lenient.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpner.entities import Extraction
from gpner.errors import DataError
from gpner.evaluation.breakdown import by_depth, by_document_tokens, by_entity_characters
from gpner.evaluation.pairing import KINDS, EntitySpan, Pair, count_same_boundaries, count_same_labels, pair_entities
from gpner.evaluation.reliability import Reliability, measure_reliability
from gpner.evaluation.scores import Interval, MacroScores, Scores, f1_intervals, macro_scores
from gpner.examples import Example
from gpner.extractor import Extractor

__all__ = ["Evaluation", "MacroScores", "Scores", "evaluate", "evaluate_extractions", "evaluate_extractor"]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that is measured of an extraction; all scores are strict unless they say otherwise.

    Attributes:
        micro: Over all entities.
        macro: The unweighted means over the labels that occur in gold.
        by_label: For every label that occurs in gold or found, by name.
        by_document_tokens: By the length of the document; empty where no lengths were given.
        by_entity_characters: By the length of the entity.
        by_depth: By nesting depth, `0` for the outermost.
        boundaries: Start and end right, whatever the label: `exact` of SemEval-2013 task 9.1 (Segura-Bedmar et al.,
            2013).
        types: The label right and at least one character shared, paired one to one: `type` of the same.
        interval: Of micro F1, 95 %, over other documents of the same kind.
        label_intervals: Of the F1 of each label.
        documents: Of each document, which found entity answers which gold one.
        reliability: Of the scores of the found entities; None where they had no scores.
    """

    micro: Scores
    macro: MacroScores
    by_label: dict[str, Scores]
    by_document_tokens: dict[str, Scores]
    by_entity_characters: dict[str, Scores]
    by_depth: dict[str, Scores]
    boundaries: Scores
    types: Scores
    interval: Interval
    label_intervals: dict[str, Interval]
    documents: tuple[tuple[Pair, ...], ...]
    reliability: Reliability | None = None

    @property
    def kinds(self) -> dict[str, int]:
        """How many pairs there are of each kind: what is right, and the kinds of error."""
        counts = Counter(pair.kind for document in self.documents for pair in document)
        return {kind: counts[kind] for kind in KINDS}

    def to_dict(self) -> dict[str, Any]:
        """All figures, ready for JSON; the pairs of the documents are only counted."""
        breakdowns = {
            name: {part: scores.to_dict() for part, scores in getattr(self, name).items()}
            for name in ("by_label", "by_document_tokens", "by_entity_characters", "by_depth")
        }
        return {
            "micro": self.micro.to_dict(),
            "macro": asdict(self.macro),
            "interval": asdict(self.interval),
            **breakdowns,
            "label_intervals": {label: asdict(interval) for label, interval in self.label_intervals.items()},
            "boundaries": self.boundaries.to_dict(),
            "types": self.types.to_dict(),
            "kinds": self.kinds,
            "reliability": asdict(self.reliability) if self.reliability else None,
        }


def evaluate(
    gold: Sequence[Collection[EntitySpan]],
    found: Sequence[Collection[EntitySpan]],
    *,
    tokens: Sequence[int] | None = None,
) -> Evaluation:
    """Compare what was found with what is right.

    Args:
        gold: Of each document its entities: start, end (exclusive), label. One given twice counts once.
        found: The same of what was found, in the same order of documents.
        tokens: Of each document its number of tokens, for the breakdown by length.

    Raises:
        DataError: If they are not of the same number of documents.
    """
    if len(gold) != len(found):
        raise DataError(f"gold and found must be of the same documents, were: {len(gold)} and {len(found)}")
    documents = list(zip(map(frozenset, gold), map(frozenset, found), strict=True))
    labels = sorted({label for document in documents for entities in document for _, _, label in entities})
    counts = _counts(documents, labels)
    groups = [Scores(*row) for row in counts.sum(axis=0).tolist()]
    intervals = f1_intervals(counts)
    by_label = dict(zip(labels, groups[1:], strict=True))
    micro = groups[0]
    return Evaluation(
        micro=micro,
        macro=macro_scores(by_label.values()),
        by_label=by_label,
        by_document_tokens={} if tokens is None else by_document_tokens(documents, tokens),
        by_entity_characters=by_entity_characters(documents),
        by_depth=by_depth(documents),
        boundaries=Scores(micro.gold, micro.found, sum(count_same_boundaries(*document) for document in documents)),
        types=Scores(micro.gold, micro.found, sum(count_same_labels(*document) for document in documents)),
        interval=intervals[0],
        label_intervals=dict(zip(labels, intervals[1:], strict=True)),
        documents=tuple(pair_entities(*document) for document in documents),
    )


def _counts(
    documents: Sequence[tuple[frozenset[EntitySpan], frozenset[EntitySpan]]], labels: Sequence[str]
) -> NDArray[np.int64]:
    """Count gold, found and correct entities per document, of all labels and then of each.

    Shape of the result: (documents, 1 + labels, 3).
    """
    counts = np.zeros((len(documents), 1 + len(labels), 3), dtype=np.int64)
    rows = {label: row for row, label in enumerate(labels, start=1)}
    for document, (gold, found) in enumerate(documents):
        for column, entities in enumerate((gold, found, gold & found)):
            for _, _, label in entities:
                counts[document, rows[label], column] += 1
    counts[:, 0] = counts[:, 1:].sum(axis=1)
    return counts


def evaluate_extractions(examples: Sequence[Example], extractions: Iterable[Extraction]) -> Evaluation:
    """Score what was extracted from the texts of examples, in their order."""
    extractions = list(extractions)
    found = [{(entity.start, entity.end, entity.label) for entity in e.entities} for e in extractions]
    gold = [set(example.entities) for example in examples]
    scored = [
        (entity.score, (entity.start, entity.end, entity.label) in right)
        for right, extraction in zip(gold, extractions, strict=True)
        for entity in extraction.entities
    ]
    evaluation = evaluate(gold, found, tokens=[e.tokens for e in extractions])
    reliability = measure_reliability([score for score, _ in scored], [correct for _, correct in scored])
    return replace(evaluation, reliability=reliability)


def evaluate_extractor(extractor: Extractor, examples: Sequence[Example]) -> Evaluation:
    """Extract from the texts of examples and score what was found."""
    return evaluate_extractions(examples, extractor.extract_iter(example.text for example in examples))
