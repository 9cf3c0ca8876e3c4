"""Files of examples and the features made of them; every broken line is named."""

import gzip
import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpner.dataset import Example, build_features, labels_of, read_examples
from gpner.errors import DataError
from gpner.tokenization import TextTokenizer
from tests.tokenizers_fixtures import SHARED_DATA

LINE = {"id": "a", "text": "Ada met Grace", "entities": [[0, 3, "PER"], {"start": 8, "end": 13, "label": "PER"}]}


def write(folder: Path, *lines: object) -> Path:
    path = folder / "train.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return path


def entity_line(*entities: object) -> dict[str, object]:
    return {"text": "北京👩x", "entities": list(entities)}


def test_a_file_gives_its_examples(tmp_path):
    path = write(tmp_path, LINE, b"", {"text": "x", "entities": []}, {"id": 7, "text": "", "entities": [], "more": 1})

    examples = read_examples(path)

    assert examples == [
        Example("a", "Ada met Grace", ((0, 3, "PER"), (8, 13, "PER"))),
        Example("3", "x", ()),
        Example("7", "", ()),
    ]


def test_a_compressed_file_reads_like_a_plain_one(tmp_path):
    plain = write(tmp_path, LINE, entity_line([0, 2, "LOC"]))
    packed = tmp_path / "train.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))

    assert read_examples(packed) == read_examples(plain)


def test_only_line_feeds_end_a_line(tmp_path):
    text = "a\u2028b\x85c\rd"
    line = json.dumps({"text": text, "entities": []}, ensure_ascii=False).encode()

    assert [example.text for example in read_examples(write(tmp_path, line, line))] == [text, text]


def test_an_entity_given_twice_is_kept_once_and_order_is_kept(tmp_path):
    again = {"start": 2, "end": 3, "label": "PER"}

    (example,) = read_examples(write(tmp_path, entity_line([2, 3, "PER"], [0, 2, "LOC"], again)))

    assert example.entities == ((2, 3, "PER"), (0, 2, "LOC"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "a line must be one JSON object, was not: Expecting property name"),
        (b"[1]", "a line must be one JSON object, was: list"),
        (b"[" * 100_000, "a line must be one JSON object, was not: "),
        (b'{"text": "\xff"}', "a line must be UTF-8, was not at byte 10"),
        ({"entities": []}, "an example must have the keys 'text' and 'entities', was without: 'text'"),
        ({"text": ""}, "an example must have the keys 'text' and 'entities', was without: 'entities'"),
        ({"text": 5, "entities": []}, "'text' must be a string, was: int"),
        (b'{"text": "ab\\ud800", "entities": []}', "'text' must be valid Unicode, was a lone surrogate at character 2"),
        ({"text": "", "entities": {}}, "'entities' must be a list, was: dict"),
        ({"id": "", "text": "", "entities": []}, "'id' must be a string that is not empty, or a whole number, was: ''"),
        ({"id": None, "text": "", "entities": []}, "or a whole number, was: None"),
        ({**LINE}, "id 'a' must be unique, line 1 has it too; rename one"),
        (entity_line([0, 2]), r"an entity must be [start, end, label] or an object with these keys, was: [0, 2]"),
        (entity_line({"start": 0, "end": 2}), 'with these keys, was: {"start": 0, "end": 2}'),
        (entity_line([0, 2, 5]), "a label must be a string that is not empty, was: 5"),
        (entity_line([0, 2, ""]), "a label must be a string that is not empty, was: ''"),
        (entity_line([0, 2.0, "LOC"]), "entity 'LOC' must start and end at whole numbers, was: 2.0"),
        (entity_line([False, 2, "LOC"]), "entity 'LOC' must start and end at whole numbers, was: False"),
        (entity_line([-1, 2, "LOC"]), "entity 'LOC' must start at 0 or later and end after its start, was: -1-2"),
        (entity_line([2, 2, "LOC"]), "entity 'LOC' must start at 0 or later and end after its start, was: 2-2"),
        (entity_line([3, 5, "LOC"]), "entity 'LOC' covers characters 3-5 but the text has 4"),
    ],
)
def test_a_broken_line_is_named_with_its_file_and_number(tmp_path, line, message):
    path = write(tmp_path, LINE, b" ", line)

    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read_examples(path)

    assert str(caught.value).startswith(f"{path}:3: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.jsonl", None, "must be a readable file of examples, was not: "),
        ("train.jsonl", b"", "must hold at least one example, was empty"),
        ("train.jsonl", b"\n \n", "must hold at least one example, was empty"),
        ("train.jsonl.gz", b"plain", "must be a readable file of examples, was not: Not a gzipped file"),
        (
            "train.jsonl.gz",
            gzip.compress(b'{"text": "", "entities": []}\n')[:-9],
            "must be a readable file of examples",
        ),
    ],
)
def test_a_file_that_holds_no_examples_is_refused(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(DataError, match=re.escape(f"{path}: {message}")):
        read_examples(path)


def test_labels_are_sorted_and_each_once():
    examples = [Example("1", "ab", ((0, 1, "PER"), (1, 2, "LOC"))), Example("2", "ab", ((0, 2, "PER"),))]

    assert labels_of(examples) == ["LOC", "PER"]


def test_an_entity_goes_to_every_window_that_holds_it_whole(byte_level_tokenizer):
    text = "x" * 20
    entities = tuple((start, start + 3, "PER") for start in range(18))
    tokenizer = TextTokenizer(byte_level_tokenizer, context=10, stride=4)

    features, inexpressible = build_features([Example("1", text, entities)], tokenizer, ["LOC", "PER"])

    assert inexpressible == []
    assert [feature.n_content for feature in features] == [8, 8, 8, 8]
    for feature in features:
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
    examples = read_examples(path)[:200]
    kind = chinese_tokenizer if name == "cluener.dev" else wordpiece_tokenizer

    features, inexpressible = build_features(examples, TextTokenizer(kind, context=512, stride=64), labels_of(examples))

    asked = sum(len(example.entities) for example in examples)
    assert sum(len(feature.spans) for feature in features) + len(inexpressible) >= asked
    assert len(inexpressible) < 0.005 * asked
