"""The features made of examples: every entity in every window that holds it, or handed back."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpner.dataset import build_features
from gpner.errors import DataError
from gpner.examples import Example, labels_of, read_corpus
from gpner.tokenization import TextTokenizer
from tests.tokenizers_fixtures import SHARED_DATA


def test_an_entity_goes_to_every_window_that_holds_it_whole(byte_level_tokenizer):
    text = "x" * 20
    entities = tuple((start, start + 3, "PER") for start in range(18))
    tokenizer = TextTokenizer(byte_level_tokenizer, context=10, stride=4)

    features, inexpressible = build_features([Example("1", text, entities)], tokenizer, ["LOC", "PER"])

    assert inexpressible == []
    assert [feature.n_content for feature in features] == [8, 8, 8, 8]
    for feature in features:
        assert feature.example_id == "1"
        assert feature.spans == [(1, first, first + 2) for first in range(6)]
        assert len(feature.token_ids) == 10
        assert feature.prefix == 1


def test_entities_that_no_feature_has_are_handed_back(byte_level_tokenizer):
    examples = [
        Example("1", "x" * 20, ((0, 8, "PER"), (2, 10, "PER"), (3, 4, "PER"))),
        Example("2", " x", ((0, 1, "PER"), (0, 2, "PER"), (1, 2, "PER"))),
        Example("3", "", ()),
    ]
    tokenizer = TextTokenizer(byte_level_tokenizer, context=10, stride=4)

    features, inexpressible = build_features(examples, tokenizer, ["PER"])

    assert inexpressible == [("1", 2, 10, "PER"), ("2", 0, 1, "PER"), ("2", 0, 2, "PER")]
    assert [feature.spans for feature in features] == [[(0, 0, 7), (0, 3, 3)], [], [], [], [(0, 1, 1)]]


@settings(deadline=None)
@given(stride=st.integers(0, 7), entities=st.frozensets(st.tuples(st.integers(0, 39), st.integers(1, 12)), max_size=30))
def test_features_and_what_is_handed_back_are_all_entities(byte_level_tokenizer, stride, entities):
    asked = {(start, min(40, start + length), "PER") for start, length in entities}
    tokenizer = TextTokenizer(byte_level_tokenizer, context=10, stride=stride)
    example = Example("1", "x" * 40, tuple(asked))

    features, inexpressible = build_features([example], tokenizer, ["PER"])

    (tokenized,) = tokenizer([example.text])
    placed = set()
    for window, feature in zip(tokenized.windows, features, strict=True):
        begin = window.first_token
        placed |= {(begin + first, begin + last + 1, "PER") for _, first, last in feature.spans}
        inside = {entity for entity in asked if begin <= entity[0] and entity[1] <= begin + window.n_content}
        assert len(feature.spans) == len(inside)
    assert placed | {entity[1:] for entity in inexpressible} == asked
    assert placed.isdisjoint({entity[1:] for entity in inexpressible})


def test_a_label_that_the_model_does_not_know_is_refused(byte_level_tokenizer):
    tokenizer = TextTokenizer(byte_level_tokenizer, context=10, stride=4)

    with pytest.raises(DataError, match="labels must be among LOC, ORG, in example 'e1' was: 'PER'"):
        build_features([Example("e1", "x", ((0, 1, "PER"),))], tokenizer, ["LOC", "ORG"])


def test_a_very_long_example_takes_no_longer_a_token_than_a_short_one(byte_level_tokenizer):
    def seconds(words: int) -> float:
        entities = tuple((2 * word, 2 * word + 1, "PER") for word in range(words))
        tokenizer = TextTokenizer(byte_level_tokenizer, context=34, stride=16)
        began = time.process_time()
        build_features([Example("1", "x " * words, entities)], tokenizer, ["PER"])
        return time.process_time() - began

    few = min(seconds(2_000) for _ in range(3))

    assert seconds(40_000) < 20 * 4 * few


@pytest.mark.parametrize("name", ["litbank", "wnut17.test", "cluener.dev"])
def test_the_entities_of_real_corpora_come_back_from_their_features(name, wordpiece_tokenizer, chinese_tokenizer):
    path = SHARED_DATA / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"needs {path.name} in the shared data")
    examples = read_corpus(path, strict=True).examples[:200]
    kind = chinese_tokenizer if name == "cluener.dev" else wordpiece_tokenizer

    features, inexpressible = build_features(examples, TextTokenizer(kind, context=512, stride=64), labels_of(examples))

    asked = sum(len(example.entities) for example in examples)
    assert sum(len(feature.spans) for feature in features) + len(inexpressible) >= asked
    assert len(inexpressible) < 0.005 * asked
