"""Which found entity answers which gold one, against slow references that try everything."""

import tracemalloc
from itertools import combinations, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpner.evaluation.pairing import KINDS, Pair, count_same_boundaries, count_same_labels, pair_entities

spans = st.integers(0, 9).flatmap(lambda start: st.tuples(st.just(start), st.integers(start + 1, 10)))
entities = st.builds(lambda span, label: (*span, label), spans, st.sampled_from("AB"))
few = st.frozensets(entities, max_size=5)


def shared(left, right):
    return len(set(range(*left[:2])) & set(range(*right[:2])))


def most_pairs(gold, found, match):
    """The largest one-to-one assignment, by trying them all."""
    gold, found = sorted(gold), sorted(found)
    for size in range(min(len(gold), len(found)), 0, -1):
        for chosen in combinations(gold, size):
            for partners in permutations(found, size):
                if all(match(right, wrong) for right, wrong in zip(chosen, partners, strict=True)):
                    return size
    return 0


@pytest.mark.parametrize(
    ("gold", "found", "expected"),
    [
        ({(0, 5, "A")}, {(0, 5, "A")}, {"correct": 1}),
        ({(0, 5, "A")}, {(0, 5, "B")}, {"wrong label": 1}),
        ({(0, 5, "A")}, {(2, 9, "A")}, {"wrong boundary": 1}),
        ({(0, 5, "A")}, {(2, 9, "B")}, {"missed": 1, "spurious": 1}),
        ({(0, 5, "A")}, {(5, 9, "A")}, {"missed": 1, "spurious": 1}),
        ({(0, 5, "A"), (0, 5, "B")}, {(0, 5, "A"), (0, 5, "C")}, {"correct": 1, "wrong label": 1}),
        # What is right stays right, whatever else is found around it.
        ({(0, 5, "A")}, {(0, 5, "A"), (0, 6, "A"), (0, 5, "B")}, {"correct": 1, "spurious": 2}),
        # One found entity answers for one gold entity only.
        ({(0, 5, "A"), (6, 9, "A")}, {(0, 9, "A")}, {"wrong boundary": 1, "missed": 1}),
        # The wrong label comes before the wrong boundary.
        ({(0, 5, "A")}, {(0, 5, "B"), (0, 4, "A")}, {"wrong label": 1, "spurious": 1}),
    ],
)
def test_the_kinds_of_error_are_those_that_a_reader_would_name(gold, found, expected):
    kinds = [pair.kind for pair in pair_entities(gold, found)]

    assert {kind: kinds.count(kind) for kind in set(kinds)} == expected


def test_of_several_overlapping_entities_the_greatest_overlap_is_paired():
    gold = {(0, 3, "A"), (2, 20, "A")}

    pairs = pair_entities(gold, {(0, 19, "A")})

    assert pairs == (Pair("missed", (0, 3, "A"), None), Pair("wrong boundary", (2, 20, "A"), (0, 19, "A")))


def test_of_equal_overlaps_the_earlier_is_paired():
    pairs = pair_entities({(5, 10, "A")}, {(4, 9, "A"), (6, 11, "A")})

    assert pairs == (Pair("wrong boundary", (5, 10, "A"), (4, 9, "A")), Pair("spurious", None, (6, 11, "A")))


@settings(deadline=None)
@given(gold=few, found=few)
def test_every_entity_is_in_exactly_one_pair_and_the_kind_says_what_the_two_share(gold, found):
    pairs = pair_entities(gold, found)

    assert sorted(pair.gold for pair in pairs if pair.gold) == sorted(gold)
    assert sorted(pair.found for pair in pairs if pair.found) == sorted(found)
    for pair in pairs:
        right, wrong = pair.gold, pair.found
        assert pair.kind in KINDS
        assert (pair.kind == "missed") == (wrong is None)
        assert (pair.kind == "spurious") == (right is None)
        assert (pair.kind == "correct") == (right == wrong)
        if pair.kind == "wrong label":
            assert right[:2] == wrong[:2]
        if pair.kind == "wrong boundary":
            assert right[2] == wrong[2]
            assert shared(right, wrong)
    kinds = [pair.kind for pair in pairs]
    assert kinds.count("correct") == len(gold & found)
    assert kinds.count("correct") + kinds.count("wrong label") == count_same_boundaries(gold, found)


def greedy_overlaps(gold, found):
    """Take the pair with the greatest overlap until there is none."""
    pairs = []
    while True:
        free = [(right, wrong) for right in gold for wrong in found if right[2] == wrong[2] and shared(right, wrong)]
        if not free:
            return pairs

        def rank(pair):
            common = shared(*pair)
            union = pair[0][1] - pair[0][0] + pair[1][1] - pair[1][0] - common
            return -common / union, pair

        best = min(free, key=rank)
        pairs.append(best)
        gold, found = gold - {best[0]}, found - {best[1]}


@settings(deadline=None)
@given(gold=st.frozensets(entities, max_size=12), found=st.frozensets(entities, max_size=12))
def test_wrong_boundaries_are_paired_as_by_taking_the_greatest_overlap_again_and_again(gold, found):
    pairs = pair_entities(gold, found)

    settled = [pair for pair in pairs if pair.kind in ("correct", "wrong label")]
    rest = gold - {pair.gold for pair in settled}, found - {pair.found for pair in settled}
    by_hand = greedy_overlaps(*rest)
    assert sorted((pair.gold, pair.found) for pair in pairs if pair.kind == "wrong boundary") == sorted(by_hand)


def test_thousands_of_crossing_entities_of_one_label_take_no_memory_for_all_their_overlaps():
    # Each of 1,500 overlaps almost each of the others: 2 million pairs, of which 1,500 are wanted.
    gold = {(start, 5000 + start, "A") for start in range(0, 3000, 2)}
    found = {(start + 1, 5000 + start, "A") for start in range(0, 3000, 2)}
    tracemalloc.start()

    pairs = pair_entities(gold, found)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert {pair.kind for pair in pairs} == {"wrong boundary"}
    assert {pair.found[0] - pair.gold[0] for pair in pairs} == {1}
    assert peak < 10_000_000


@settings(deadline=None, max_examples=150)
@given(gold=few, found=few)
def test_lenient_matches_are_the_most_that_any_assignment_reaches(gold, found):
    def same_label(right, wrong):
        return right[2] == wrong[2] and shared(right, wrong)

    assert count_same_labels(gold, found) == most_pairs(gold, found, same_label)
    assert count_same_boundaries(gold, found) == most_pairs(gold, found, lambda right, wrong: right[:2] == wrong[:2])
