"""Which found entity answers which gold entity: the kinds of error, and the matches of lenient scores.

One definition for every table and every page, so that their figures agree.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from heapq import heappop, heappush

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
    """Pair overlapping entities with equal labels, the greatest overlap first."""
    edges: list[tuple[float, EntitySpan, EntitySpan]] = []
    candidates = _by_label(spurious)
    for label, wanted in _by_label(missed).items():
        edges += _overlaps(wanted, candidates.get(label, []))
    partners: dict[EntitySpan, EntitySpan] = {}
    taken: set[EntitySpan] = set()
    for _, right, wrong in sorted(edges):
        if right not in partners and wrong not in taken:
            partners[right] = wrong
            taken.add(wrong)
    return partners


def _overlaps(missed: list[EntitySpan], spurious: list[EntitySpan]) -> Iterable[tuple[float, EntitySpan, EntitySpan]]:
    """Yield the overlapping pairs of one label with their overlap, negated; both lists are sorted.

    No more than `len(missed)` for each missed entity: the others cannot take more of its best partners away. That
    bounds the work where a model fires everywhere.
    """
    if not spurious:
        return
    starts, ends = np.array([entity[:2] for entity in spurious]).T
    longest = int((ends - starts).max())
    for start, end, label in missed:
        first, stop = np.searchsorted(starts, (start - longest, end))
        shared = np.minimum(ends[first:stop], end) - np.maximum(starts[first:stop], start)
        union = (end - start) + (ends[first:stop] - starts[first:stop]) - shared
        overlap = shared / union
        for place in np.argsort(-overlap, kind="stable")[: len(missed)]:
            if shared[place] > 0:
                yield -float(overlap[place]), (start, end, label), spurious[first + place]


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
