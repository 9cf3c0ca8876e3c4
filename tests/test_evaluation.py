"""Scores counted over the corpus, strict and never NaN."""

import json
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpner.entities import Entity, Extraction
from gpner.errors import DataError
from gpner.evaluation import MacroScores, Scores, evaluate, evaluate_extractions
from gpner.evaluation.scores import Interval, f1_intervals
from gpner.examples import Example

entities = st.frozensets(
    st.tuples(st.integers(0, 3), st.integers(4, 6), st.sampled_from(["LOC", "ORG", "PER"])), max_size=6
)
corpora = st.lists(st.tuples(entities, entities), max_size=6)


def test_counts_are_of_the_corpus_and_not_an_average_of_documents():
    gold = [{(0, 2, "PER")}, {(index, index + 1, "ORG") for index in range(8)}]
    found = [{(0, 2, "PER")}, {(0, 1, "ORG"), (1, 2, "ORG")}]

    evaluation = evaluate(gold, found)

    assert evaluation.micro == Scores(gold=9, found=3, correct=3)
    assert evaluation.micro.f1 == pytest.approx(2 * 1 * (3 / 9) / (1 + 3 / 9))
    assert evaluation.by_label == {"ORG": Scores(8, 2, 2), "PER": Scores(1, 1, 1)}


@pytest.mark.parametrize("wrong", [(0, 3, "PER"), (1, 2, "PER"), (0, 2, "ORG")])
def test_start_end_and_label_must_all_be_right(wrong):
    assert evaluate([[(0, 2, "PER")]], [[wrong]]).micro == Scores(gold=1, found=1, correct=0)


def test_the_same_characters_in_another_document_are_another_entity():
    assert evaluate([[(0, 2, "PER")], []], [[], [(0, 2, "PER")]]).micro == Scores(gold=1, found=1, correct=0)


def test_an_entity_given_twice_counts_once():
    twice = [[(0, 2, "PER"), (0, 2, "PER")]]

    assert evaluate(twice, twice).micro == Scores(gold=1, found=1, correct=1)


@pytest.mark.parametrize("scores", [Scores(0, 0, 0), Scores(5, 0, 0), Scores(0, 5, 0), Scores(5, 5, 0)])
def test_rates_of_nothing_are_zero_and_not_nan(scores):
    assert (scores.precision, scores.recall, scores.f1) == (0.0, 0.0, 0.0)


def test_a_corpus_without_documents_scores_zero():
    evaluation = evaluate([], [])

    assert evaluation.micro == evaluation.boundaries == evaluation.types == Scores(0, 0, 0)
    assert evaluation.macro == MacroScores(0.0, 0.0, 0.0, labels=0)
    assert evaluation.interval == Interval(0.0, 0.0)
    assert set(evaluation.kinds.values()) == {0}
    assert evaluation.to_dict()["by_label"] == evaluation.by_depth == {}


@settings(deadline=None, max_examples=50)
@given(corpus=corpora)
def test_counts_equal_a_count_by_hand_and_labels_add_up(corpus):
    gold, found = [right for right, _ in corpus], [candidates for _, candidates in corpus]

    evaluation = evaluate(gold, found)

    correct = sum(entity in right for right, candidates in corpus for entity in candidates)
    assert evaluation.micro == Scores(sum(map(len, gold)), sum(map(len, found)), correct)
    for count in ("gold", "found", "correct"):
        assert sum(getattr(scores, count) for scores in evaluation.by_label.values()) == getattr(
            evaluation.micro, count
        )
    precision, recall = evaluation.micro.precision, evaluation.micro.recall
    assert evaluation.micro.f1 == pytest.approx(2 * precision * recall / (precision + recall) if correct else 0.0)


def test_labels_come_in_order_whether_gold_or_only_found():
    evaluation = evaluate([[(0, 1, "PER")]], [[(0, 1, "LOC"), (0, 1, "ORG")]])

    assert list(evaluation.by_label) == ["LOC", "ORG", "PER"]
    assert evaluation.by_label["LOC"] == Scores(gold=0, found=1, correct=0)


def test_scores_are_ready_for_json():
    evaluation = evaluate([[(0, 1, "PER")]], [[(0, 1, "PER"), (2, 3, "PER")]], tokens=[600])

    written = json.loads(json.dumps(evaluation.to_dict()))

    expected = {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "gold": 1, "found": 2, "correct": 1}
    assert written["micro"] == expected
    assert written["by_label"] == {"PER": expected}
    assert written["by_document_tokens"] == {"513-1024": expected}
    assert written["macro"] == {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "labels": 1}
    assert written["interval"] == {"low": pytest.approx(2 / 3), "high": pytest.approx(2 / 3)}
    assert written["kinds"] == {"correct": 1, "wrong label": 0, "wrong boundary": 0, "missed": 0, "spurious": 1}
    assert written["reliability"] is None


def test_different_numbers_of_documents_are_refused():
    with pytest.raises(DataError, match="of the same documents, were: 1 and 2"):
        evaluate([[]], [[], []])


def test_macro_is_the_plain_mean_over_the_labels_of_gold():
    gold = [[(0, 1, "PER"), (2, 3, "PER"), (4, 5, "LOC")]]
    found = [[(0, 1, "PER"), (6, 7, "ORG")]]

    macro = evaluate(gold, found).macro

    assert macro.labels == 2
    assert (macro.precision, macro.recall) == (pytest.approx(1 / 2), pytest.approx(1 / 4))
    assert macro.f1 == pytest.approx((2 / 3 + 0) / 2)


def test_lenient_scores_count_every_entity_once():
    gold = [[(0, 5, "PER"), (0, 5, "ORG"), (8, 12, "LOC")]]
    found = [[(0, 5, "PER"), (0, 5, "LOC"), (9, 10, "LOC"), (11, 12, "LOC")]]

    evaluation = evaluate(gold, found)

    assert evaluation.micro == Scores(3, 4, 1)
    assert evaluation.boundaries == Scores(3, 4, 2)
    assert evaluation.types == Scores(3, 4, 2)


def test_documents_are_told_apart_by_their_tokens():
    gold = [[(0, 1, "PER")]] * 4

    evaluation = evaluate(gold, [[(0, 1, "PER")], [], [(0, 1, "PER"), (2, 3, "PER")], []], tokens=[128, 512, 513, 9000])

    assert evaluation.by_document_tokens == {
        "1-128": Scores(1, 1, 1),
        "129-512": Scores(1, 0, 0),
        "513-1024": Scores(1, 2, 1),
        ">8192": Scores(1, 0, 0),
    }


def test_entities_are_told_apart_by_their_own_length():
    evaluation = evaluate([[(0, 2, "PER"), (0, 81, "ORG")]], [[(0, 2, "PER"), (0, 80, "ORG")]])

    assert evaluation.by_entity_characters == {"1-2": Scores(1, 1, 1), "41-80": Scores(0, 1, 0), ">80": Scores(1, 0, 0)}


def test_depth_counts_the_longer_gold_spans_around_an_entity():
    gold = [[(0, 20, "ORG"), (0, 20, "LOC"), (5, 20, "ORG"), (5, 10, "PER"), (15, 25, "PER")]]
    found = [[(0, 20, "ORG"), (6, 9, "PER"), (5, 10, "PER"), (14, 25, "PER"), (0, 30, "ORG")]]

    evaluation = evaluate(gold, found)

    assert evaluation.by_depth == {
        "0": Scores(gold=3, found=3, correct=1),
        "1": Scores(gold=1, found=0, correct=0),
        "2": Scores(gold=1, found=1, correct=1),
        ">2": Scores(gold=0, found=1, correct=0),
    }


@settings(deadline=None, max_examples=50)
@given(corpus=corpora)
def test_every_breakdown_adds_up_to_the_whole(corpus):
    gold, found = [right for right, _ in corpus], [candidates for _, candidates in corpus]

    evaluation = evaluate(gold, found, tokens=[700 * number for number in range(len(corpus))])

    for name in ("by_label", "by_document_tokens", "by_entity_characters", "by_depth"):
        parts = getattr(evaluation, name).values()
        sums = [sum(getattr(part, count) for part in parts) for count in ("gold", "found", "correct")]
        assert Scores(*sums) == evaluation.micro, name
    kinds = evaluation.kinds
    assert kinds["correct"] == evaluation.micro.correct
    assert kinds["correct"] + kinds["wrong label"] == evaluation.boundaries.correct
    both = kinds["correct"] + kinds["wrong label"] + kinds["wrong boundary"]
    assert both + kinds["missed"] == evaluation.micro.gold
    assert both + kinds["spurious"] == evaluation.micro.found
    assert evaluation.types.correct >= kinds["correct"] + kinds["wrong boundary"]


@settings(deadline=None, max_examples=50)
@given(corpus=corpora)
def test_depths_equal_a_count_by_hand(corpus):
    evaluation = evaluate([right for right, _ in corpus], [candidates for _, candidates in corpus])

    gold_depths = []
    for right, _ in corpus:
        borders = {entity[:2] for entity in right}
        for start, end, _ in right:
            gold_depths.append(sum(a <= start and end <= b and (a, b) != (start, end) for a, b in borders))
    by_hand = {depth: sum(min(3, other) == depth for other in gold_depths) for depth in range(4)}
    names = dict(enumerate(["0", "1", "2", ">2"]))
    counted = {depth: evaluation.by_depth.get(name, Scores(0, 0, 0)).gold for depth, name in names.items()}
    assert counted == by_hand


def noisy_counts(n_documents, seed=0):
    """Gold, found and correct entities of one group in documents of which some are harder than others."""
    chooser = random.Random(seed)
    rows = []
    for _ in range(n_documents):
        share = chooser.random()
        rows.append([[10, 10, sum(chooser.random() < share for _ in range(10))]])
    return np.array(rows)


@settings(deadline=None, max_examples=30)
@given(n_documents=st.integers(1, 40), seed=st.integers(0, 1000))
def test_the_interval_holds_the_figure_itself(n_documents, seed):
    counts = noisy_counts(n_documents, seed)

    (interval,) = f1_intervals(counts)

    assert interval.low <= Scores(*counts.sum(axis=0)[0].tolist()).f1 <= interval.high


def test_the_interval_narrows_with_the_square_root_of_the_documents():
    widths = [interval.high - interval.low for n in (50, 200, 800) for interval in f1_intervals(noisy_counts(n))]

    assert widths[0] / widths[1] == pytest.approx(2, rel=0.25)
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.25)


def test_the_interval_is_that_of_resampled_documents_drawn_one_by_one():
    counts = noisy_counts(60)
    chooser = random.Random(1)
    resamples = [counts[chooser.choices(range(60), k=60)].sum(axis=0)[0] for _ in range(4000)]
    f1 = [Scores(*row.tolist()).f1 for row in resamples]

    (interval,) = f1_intervals(counts)

    assert interval.low == pytest.approx(np.quantile(f1, 0.025), abs=0.01)
    assert interval.high == pytest.approx(np.quantile(f1, 0.975), abs=0.01)


def test_resamples_without_a_label_say_nothing_of_it():
    gold = [[(0, 3, "PER")] for _ in range(10)]
    gold[0] = [(0, 3, "RARE")]

    evaluation = evaluate(gold, gold)

    assert evaluation.label_intervals == {"PER": Interval(1.0, 1.0), "RARE": Interval(1.0, 1.0)}


def test_the_same_scores_have_the_same_interval():
    gold = [[(0, number, "PER")] for number in range(1, 30)]
    found = [entities if number % 3 else [] for number, entities in enumerate(gold)]

    evaluation = evaluate(gold, found)

    assert evaluation.interval == evaluate(gold, found).interval == evaluation.label_intervals["PER"]
    assert 0 < evaluation.interval.low < evaluation.micro.f1 < evaluation.interval.high < 1


def test_extractions_are_scored_with_their_lengths_and_the_reliability_of_their_scores():
    example = Example("a", "Ada met Babbage", ((0, 3, "PER"), (8, 15, "PER")))
    found = (Entity(0, 3, "PER", "Ada", 0.9), Entity(8, 11, "PER", "Bab", 0.6))

    evaluation = evaluate_extractions([example], [Extraction(found, tokens=5, windows=1)])

    assert evaluation.by_document_tokens == {"1-128": evaluation.micro} == {"1-128": Scores(2, 2, 1)}
    assert [pair.kind for pair in evaluation.documents[0]] == ["correct", "wrong boundary"]
    bins = [(row.low, row.count, row.mean_score, row.share_correct) for row in evaluation.reliability.bins]
    assert bins == [(0.5, 1, 0.6, 0.0), (0.8, 1, 0.9, 1.0)]
    assert evaluation.reliability.expected_calibration_error == pytest.approx((0.6 + 0.1) / 2)
