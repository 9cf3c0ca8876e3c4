"""Which found entity answers which gold entity: the kinds of error, and the matches of lenient scores.

One definition for every table and every page, so that their figures agree.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np

# Start, end (characters, end exclusive) and label.
EntitySpan = tuple[int, int, str]

KINDS = ("correct", "wrong label", "wrong boundary", "missed", "spurious")


@dataclass(frozen=True, slots=True)
class Pair:
    """A gold entity and the found one that answers it, or one of the two alone.

    `kind` is one of `KINDS`. Of a correct pair both are equal, of `wrong label` start and end are, of `wrong boundary`
    the labels are and the two overlap. `missed` has no found entity, `spurious` no gold one.
    """

    kind: str
    gold: EntitySpan | None
    found: EntitySpan | None


def pair_entities(gold: Collection[EntitySpan], found: Collection[EntitySpan]) -> tuple[Pair, ...]:
    """Pair the entities of one document, each exactly once.

    Equal ones are correct. Of the rest, those with equal start and end are paired (labels in alphabetical order, should
    there be several). Of the rest, those with equal labels that overlap are paired, the greatest overlap first,
    measured as intersection over union of their characters; of equal overlaps the earlier gold, then found entity.

    Returns:
        The pairs by start, then end, then label, of their gold entity or, without one, of the found one.
    """
    pairs = [Pair("correct", entity, entity) for entity in set(gold) & set(found)]
    missed, spurious = sorted(set(gold) - set(found)), sorted(set(found) - set(gold))
    for kind, matched in (("wrong label", _same_boundaries), ("wrong boundary", _best_overlaps)):
        partners = matched(missed, spurious)
        pairs += [Pair(kind, *partner) for partner in partners.items()]
        taken = set(partners.values())
        missed = [entity for entity in missed if entity not in partners]
        spurious = [entity for entity in spurious if entity not in taken]
    pairs += [Pair("missed", entity, None) for entity in missed]
    pairs += [Pair("spurious", None, entity) for entity in spurious]
    return tuple(sorted(pairs, key=lambda pair: pair.gold or pair.found or ()))


def _same_boundaries(missed: list[EntitySpan], spurious: list[EntitySpan]) -> dict[EntitySpan, EntitySpan]:
    """Pair entities with equal start and end; both lists are sorted."""
    waiting: defaultdict[tuple[int, int], list[EntitySpan]] = defaultdict(list)
    for entity in reversed(spurious):
        waiting[entity[:2]].append(entity)
    return {entity: waiting[entity[:2]].pop() for entity in missed if waiting[entity[:2]]}


def _best_overlaps(missed: list[EntitySpan], spurious: list[EntitySpan]) -> dict[EntitySpan, EntitySpan]:
    """Pair overlapping entities with equal labels, the greatest overlap first; both lists are sorted."""
    candidates = _by_label(spurious)
    partners: dict[EntitySpan, EntitySpan] = {}
    for label, wanted in _by_label(missed).items():
        if label in candidates:
            partners |= _pair_greedily(wanted, candidates[label])
    return partners


def _pair_greedily(missed: list[EntitySpan], spurious: list[EntitySpan]) -> dict[EntitySpan, EntitySpan]:
    """Pair the entities of one label.

    Only the best free partner of each missed entity is known, and sought anew when another takes it: all overlaps
    would be millions of pairs where a model fires everywhere. What is out of date ranks no lower than its successor,
    so the order is that of all overlaps.
    """
    overlaps = _Overlaps(spurious)
    waiting = [best for entity in missed if (best := overlaps.best(entity))]
    heapify(waiting)
    partners: dict[EntitySpan, EntitySpan] = {}
    while waiting:
        _, entity, place = heappop(waiting)
        if overlaps.is_free[place]:
            overlaps.is_free[place] = False
            partners[entity] = spurious[place]
        elif best := overlaps.best(entity):
            heappush(waiting, best)
    return partners


class _Overlaps:
    """The sorted found entities of one label, and which of them have no partner yet."""

    def __init__(self, spurious: list[EntitySpan]) -> None:
        self.is_free = np.ones(len(spurious), dtype=np.bool_)
        self._starts, self._ends = np.array([entity[:2] for entity in spurious]).T
        self._longest = int((self._ends - self._starts).max())

    def best(self, entity: EntitySpan) -> tuple[float, EntitySpan, int] | None:
        """The greatest overlap with a free entity, negated, and the entity's place; None without one."""
        start, end, _ = entity
        first, stop = np.searchsorted(self._starts, (start - self._longest, end))
        starts, ends = self._starts[first:stop], self._ends[first:stop]
        shared = (np.minimum(ends, end) - np.maximum(starts, start)) * self.is_free[first:stop]
        if not (shared > 0).any():
            return None
        overlap = shared / ((end - start) + (ends - starts) - shared)
        place = int(overlap.argmax())
        return -float(overlap[place]), entity, int(first) + place


def count_same_boundaries(gold: Iterable[EntitySpan], found: Iterable[EntitySpan]) -> int:
    """Count one-to-one pairs with equal start and end, whatever the labels."""
    return (Counter(entity[:2] for entity in gold) & Counter(entity[:2] for entity in found)).total()


def count_same_labels(gold: Iterable[EntitySpan], found: Iterable[EntitySpan]) -> int:
    """Count the most one-to-one pairs that share a character and have equal labels."""
    candidates = _by_label(found)
    return sum(_most_pairs(wanted, candidates.get(label, [])) for label, wanted in _by_label(gold).items())


def _most_pairs(gold: list[EntitySpan], found: list[EntitySpan]) -> int:
    """Return the size of a maximum matching of overlapping spans, in O(n log n).

    Spans are visited by their end. When one ends, all unpaired spans of the other side that have begun overlap it. Of
    these, the first to end overlaps no later span that the others do not, so pairing it never costs a pair.
    """
    spans = sorted(
        (end, start, side, number)
        for side, entities in enumerate((gold, found))
        for number, (start, end, _) in enumerate(entities)
    )
    by_start = iter(sorted(spans, key=lambda span: span[1]))
    following = next(by_start, None)
    begun: tuple[list[tuple[int, int, int, int]], ...] = ([], [])
    done: set[tuple[int, int]] = set()
    pairs = 0
    for end, _, side, number in spans:
        while following is not None and following[1] < end:
            heappush(begun[following[2]], following)
            following = next(by_start, None)
        if (side, number) in done:
            continue
        done.add((side, number))
        others = begun[1 - side]
        while others and others[0][2:] in done:
            heappop(others)
        if others:
            done.add(heappop(others)[2:])
            pairs += 1
    return pairs


def _by_label(entities: Iterable[EntitySpan]) -> dict[str, list[EntitySpan]]:
    groups: defaultdict[str, list[EntitySpan]] = defaultdict(list)
    for entity in entities:
        groups[entity[2]].append(entity)
    return groups
