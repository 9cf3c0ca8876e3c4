"""Strict scores of parts of a corpus: by length of the document, by length of the entity, by nesting.

Every gold and every found entity falls into exactly one part, and an entity that is found right into the same one as
gold and as found. So the counts of a breakdown add up to those of the whole.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

from gpner.evaluation.pairing import EntitySpan
from gpner.evaluation.scores import Scores

# Upper ends of the bins, included. Documents up to 512 tokens are those that an ordinary encoder reads at once.
DOCUMENT_TOKENS = (128, 512, 1024, 2048, 4096, 8192)
ENTITY_CHARACTERS = (2, 5, 10, 20, 40, 80)
DEPTHS = (0, 1, 2)

Documents = Sequence[tuple[Collection[EntitySpan], Collection[EntitySpan]]]


def by_document_tokens(documents: Documents, tokens: Iterable[int]) -> dict[str, Scores]:
    """Score documents by their own number of tokens, without special ones."""
    parts = Parts(DOCUMENT_TOKENS)
    for (gold, found), count in zip(documents, tokens, strict=True):
        parts.add(gold, found, partial(_constant, count))
    return parts.scores()


def by_entity_characters(documents: Documents) -> dict[str, Scores]:
    """Score entities by their length: a gold one by its own, a found one by its own."""
    parts = Parts(ENTITY_CHARACTERS)
    for gold, found in documents:
        parts.add(gold, found, _length)
    return parts.scores()


def by_depth(documents: Documents) -> dict[str, Scores]:
    """Score entities by nesting depth: inside how many gold spans of the document they lie.

    Both for gold and for found entities the spans counted are gold ones that are longer and hold the entity whole,
    each once however many labels it has. 0 is outermost. Spans that merely cross do not count.
    """
    parts = Parts(DEPTHS)
    for gold, found in documents:
        depths = nesting_depths({*gold, *found}, gold)
        parts.add(gold, found, depths.__getitem__)
    return parts.scores()


def nesting_depths(entities: Iterable[EntitySpan], gold: Iterable[EntitySpan]) -> dict[EntitySpan, int]:
    """Count for each entity the gold spans that are longer and hold it whole."""
    spans = sorted({entity[:2] for entity in gold})
    distinct = set(spans)
    depths: dict[EntitySpan, int] = {}
    ends: list[int] = []
    begun = 0
    for entity in sorted(entities):
        start, end, _ = entity
        while begun < len(spans) and spans[begun][0] <= start:
            insort(ends, spans[begun][1])
            begun += 1
        depths[entity] = len(ends) - bisect_left(ends, end) - ((start, end) in distinct)
    return depths


class Parts:
    """Counts of gold, found and correct entities in bins.

    Args:
        bins: The largest value of each bin, ascending; one more bin holds everything above.
    """

    def __init__(self, bins: Sequence[int]) -> None:
        self._bins = bins
        self._gold, self._found, self._correct = Counter[int](), Counter[int](), Counter[int]()

    def add(
        self, gold: Collection[EntitySpan], found: Collection[EntitySpan], value: Callable[[EntitySpan], int]
    ) -> None:
        """Count the entities of a document, each in the bin of its value."""
        correct = set(gold) & set(found)
        for counter, entities in ((self._gold, gold), (self._found, found), (self._correct, correct)):
            counter.update(bisect_left(self._bins, value(entity)) for entity in entities)

    def scores(self) -> dict[str, Scores]:
        """The scores of the bins that hold anything, in order, by a name such as `129-512` or `>8192`."""
        return {
            self._name(place): Scores(self._gold[place], self._found[place], self._correct[place])
            for place in range(len(self._bins) + 1)
            if self._gold[place] or self._found[place]
        }

    def _name(self, place: int) -> str:
        if place == len(self._bins):
            return f">{self._bins[-1]}"
        low = self._bins[place - 1] + 1 if place else min(1, self._bins[0])
        high = self._bins[place]
        return str(high) if low == high else f"{low}-{high}"


def _length(entity: EntitySpan) -> int:
    start, end, _ = entity
    return end - start


def _constant(value: int, _: EntitySpan) -> int:
    return value
