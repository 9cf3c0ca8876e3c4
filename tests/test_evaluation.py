"""Scores counted over the corpus, strict and never NaN."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpner.errors import DataError
from gpner.evaluation import Scores, evaluate

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
    assert evaluate([], []).to_dict() == {"micro": Scores(0, 0, 0).to_dict(), "by_label": {}}


@settings(deadline=None)
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
    written = json.loads(json.dumps(evaluate([[(0, 1, "PER")]], [[(0, 1, "PER"), (2, 3, "PER")]]).to_dict()))

    expected = {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "gold": 1, "found": 2, "correct": 1}
    assert written == {"micro": expected, "by_label": {"PER": expected}}


def test_different_numbers_of_documents_are_refused():
    with pytest.raises(DataError, match="of the same documents, were: 1 and 2"):
        evaluate([[]], [[], []])
