"""Counts over a corpus of any size, in bounded memory."""

from collections import Counter
from collections.abc import Iterable, Iterator
from statistics import median_low
from typing import Any

from gpner.report.page import shortened
from gpner.view.results import Batch

# Different entities that are counted one by one: about 60 MB of short ones, 250 MB of the longest.
MOST_COUNTED = 250_000
# Entities in the page: of all labels together, and of each label at least.
MOST_FREQUENT = 10_000
MOST_OF_LABEL = 20
# Labels that are told apart, and what all others are called.
MOST_LABELS = 500
OTHER_LABELS = "(other labels)"
MOST_MODELS = 10
# Bars of a histogram, and the number that stands for none of them.
BINS = 20
NO_SCORE = -1

# The text of an entity, and the number of its label.
Surface = tuple[str, int]


class Frequent:
    """Counts of what occurs most, exact unless more differ than are counted.

    It is the summary of Misra and Gries ("Finding repeated elements", 1982), made room in as in "A High-Performance
    Algorithm for Identifying Frequent Items in Data Streams" (Anderson et al., 2017): where too many differ, the median
    count is taken off every count, and those that have nothing left are forgotten.

    Attributes:
        distinct: So many differ, or more if there is a shortfall.
        shortfall: How much too low a count may be; whatever occurs more often than that is counted.
    """

    def __init__(self, most_counted: int = MOST_COUNTED) -> None:
        self.counts: Counter[Surface] = Counter()
        self.distinct = 0
        self.shortfall = 0
        self._most_counted = most_counted

    def add(self, surfaces: Iterable[Surface]) -> None:
        """Count each once more."""
        self.counts.update(surfaces)
        self.distinct = max(self.distinct, len(self.counts))
        if len(self.counts) > self._most_counted:
            taken = median_low(self.counts.values())
            self.counts = Counter({surface: count - taken for surface, count in self.counts.items() if count > taken})
            self.shortfall += taken


class Counts:
    """All figures of the page that are about results.

    Attributes:
        documents: Documents that have a result.
        entities: Entities in all of them.
        labels: Their labels, in the order in which they came.
    """

    def __init__(self, most_counted: int = MOST_COUNTED) -> None:
        self.documents = self.tokens = self.windows = self.windowed = self.entities = 0
        self.labels: list[str] = []
        self._numbers: dict[str, int] = {}
        self._scores: Counter[tuple[int, int]] = Counter()
        self._frequent = Frequent(most_counted)
        self._models: dict[tuple[str, str], None] = {}

    def add(self, batch: Batch) -> None:
        """Count a batch."""
        self.documents += batch.documents
        self.tokens += batch.tokens
        self.windows += batch.windows
        self.windowed += batch.windowed
        self.entities += len(batch.labels)
        if len(self._models) < MOST_MODELS:
            self._models.update(dict.fromkeys(sorted(batch.models)[:MOST_MODELS]))
        of_batch = {label: self.number(label) for label in dict.fromkeys(batch.labels)}
        numbers = [of_batch[label] for label in batch.labels]
        self._scores.update(zip(numbers, map(_bin, batch.scores), strict=True))
        self._frequent.add(zip(batch.surfaces, numbers, strict=True))

    def number(self, label: str) -> int:
        """The place of a label in `labels`; those that came too late share the last."""
        if label not in self._numbers:
            if len(self.labels) == MOST_LABELS:
                self.labels.append(OTHER_LABELS)
            if len(self.labels) > MOST_LABELS:
                return MOST_LABELS
            self._numbers[label] = len(self.labels)
            self.labels.append(label)
        return self._numbers[label]

    def to_dict(self) -> dict[str, Any]:
        """As the page has them."""
        names = ("documents", "entities", "tokens", "windows", "windowed")
        return {
            "counts": {name: getattr(self, name) for name in names},
            "models": [
                {"model": shortened(model), "revision": shortened(revision)} for model, revision in self._models
            ],
            "labels": self.labels,
            "by_label": [self._of_label(number) for number in range(len(self.labels))],
            "frequent": [(*surface, count) for surface, count in self._most_frequent()],
            "distinct": self._frequent.distinct,
            "shortfall": self._frequent.shortfall,
        }

    def _of_label(self, number: int) -> dict[str, Any]:
        scores = [self._scores[number, bin_] for bin_ in range(BINS)]
        return {"count": sum(scores) + self._scores[number, NO_SCORE], "scores": scores}

    def _most_frequent(self) -> Iterator[tuple[Surface, int]]:
        of_label: Counter[int] = Counter()
        ranked = sorted(self._frequent.counts.items(), key=lambda counted: (-counted[1], counted[0]))
        for rank, (surface, count) in enumerate(ranked):
            of_label[surface[1]] += 1
            if rank < MOST_FREQUENT or of_label[surface[1]] <= MOST_OF_LABEL:
                yield surface, count


def _bin(score: float | None) -> int:
    # Not a number is in no bin either.
    return min(int(score * BINS), BINS - 1) if score is not None and 0 <= score <= 1 else NO_SCORE
