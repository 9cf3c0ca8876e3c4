"""What is checked of every example, whatever its format, shown on files of our own."""

import gzip
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpner.errors import ConfigError, DataError
from gpner.examples import Corpus, Example, Problem, labels_of, read_corpus
from gpner.formats import READERS
from tests.corpora import messages, write_lines
from tests.test_imports import modules_after

LINE = {"id": "a", "text": "Ada met Grace", "entities": [[0, 3, "PER"], {"start": 8, "end": 13, "label": "PER"}]}
ADA = Example("a", "Ada met Grace", ((0, 3, "PER"), (8, 13, "PER")))


def entity_line(*entities: object) -> dict[str, object]:
    return {"text": "北京👩x", "entities": list(entities)}


def test_a_file_gives_its_examples(tmp_path):
    more = {"id": 7, "text": "", "entities": [], "more": 1}
    path = write_lines(tmp_path / "train.jsonl", LINE, b"", {"text": "x", "entities": []}, more)

    corpus = read_corpus(path)

    assert corpus == Corpus((ADA, Example("3", "x", ()), Example("7", "", ())), ())


def test_a_compressed_file_reads_like_a_plain_one(tmp_path):
    plain = write_lines(tmp_path / "train.jsonl", LINE, entity_line([0, 2, "LOC"]))
    packed = tmp_path / "train.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))

    assert read_corpus(packed) == read_corpus(plain)


def test_a_byte_order_mark_and_carriage_returns_change_nothing(tmp_path):
    plain = write_lines(tmp_path / "plain.jsonl", LINE, entity_line([0, 2, "LOC"]))
    other = tmp_path / "other.jsonl"
    other.write_bytes(b"\xef\xbb\xbf" + plain.read_bytes().replace(b"\n", b"\r\n"))

    assert read_corpus(other) == read_corpus(plain)


def test_only_line_feeds_end_a_line(tmp_path):
    text = "a\u2028b\x85c\rd"
    line = json.dumps({"text": text, "entities": []}, ensure_ascii=False).encode()
    path = write_lines(tmp_path / "train.jsonl", line, line)

    assert [example.text for example in read_corpus(path).examples] == [text, text]


def test_nested_and_overlapping_entities_are_kept_in_their_order(tmp_path):
    spans = [[2, 3, "PER"], [0, 3, "LOC"], [1, 4, "PER"], [0, 3, "PER"]]

    corpus = read_corpus(write_lines(tmp_path / "train.jsonl", entity_line(*spans)))

    assert corpus.examples[0].entities == tuple(map(tuple, spans))
    assert not corpus.problems


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
        (b'{"id": "\\ud800", "text": "", "entities": []}', "'id' must be valid Unicode, was a lone surrogate"),
        ({"text": "", "entities": {}}, "'entities' must be a list, was: dict"),
        ({"id": "", "text": "", "entities": []}, "'id' must be a string that is not empty, or a whole number, was: ''"),
        ({"id": None, "text": "", "entities": []}, "or a whole number, was: None"),
    ],
)
def test_a_broken_line_is_reported_with_its_number_and_loses_only_its_example(tmp_path, line, message):
    path = write_lines(tmp_path / "train.jsonl", LINE, b" ", line, {**LINE, "id": "b"})

    corpus = read_corpus(path)

    assert [example.id for example in corpus.examples] == ["a", "b"]
    ((number, came),) = messages(corpus, path)
    assert number == 3
    assert message in came
    assert "\n" not in came


@pytest.mark.parametrize(
    ("entity", "message"),
    [
        ([0, 2], "an entity must be [start, end, label] or an object with these keys, was: [0, 2]"),
        ({"start": 0, "end": 2}, 'with these keys, was: {"start": 0, "end": 2}'),
        ([0, 2, 5], "a label must be a string that is not empty, was: 5"),
        ([0, 2, " "], "a label must be a string that is not empty, was: ' '"),
        ([0, 2, "A\nB"], r"a label must hold no control or invisible character, was: 'A\nB'"),
        ([0, 2, "PE\u200bR"], r"a label must hold no control or invisible character, was: 'PE\u200bR'"),
        ([0, 2, "\ud800"], "a label must be valid Unicode, was a lone surrogate at character 0"),
        ([0, 2.0, "LOC"], "entity 'LOC' must start and end at whole numbers, was: 2.0"),
        ([False, 2, "LOC"], "entity 'LOC' must start and end at whole numbers, was: False"),
        ([-1, 2, "LOC"], "entity 'LOC' must start at 0 or later and end after its start, was: -1-2"),
        ([2, 2, "LOC"], "entity 'LOC' must start at 0 or later and end after its start, was: 2-2"),
        ([3, 5, "LOC"], "entity 'LOC' covers characters 3-5 but the text has 4"),
    ],
)
def test_a_broken_entity_is_reported_with_its_line_and_loses_only_itself(tmp_path, entity, message):
    path = write_lines(tmp_path / "train.jsonl", LINE, entity_line([0, 2, "LOC"], entity, [2, 3, "PER"]))

    corpus = read_corpus(path)

    assert corpus.examples == (ADA, Example("2", "北京👩x", ((0, 2, "LOC"), (2, 3, "PER"))))
    ((number, came),) = messages(corpus, path)
    assert number == 2
    assert message in came
    assert came.endswith("; left out")


def test_an_entity_given_twice_is_kept_once_and_reported(tmp_path):
    again = {"start": 2, "end": 3, "label": "PER"}
    path = write_lines(tmp_path / "train.jsonl", entity_line([2, 3, "PER"], [0, 2, "LOC"], again))

    corpus = read_corpus(path)

    assert corpus.examples[0].entities == ((2, 3, "PER"), (0, 2, "LOC"))
    assert messages(corpus, path) == [(1, "entity 'PER' at 2-3 is given twice; kept once")]


def test_blank_edges_of_an_entity_are_trimmed_and_an_entity_of_blanks_is_left_out(tmp_path):
    line = {"text": " Ada\u3000\n", "entities": [[0, 6, "PER"], [4, 6, "PER"]]}
    path = write_lines(tmp_path / "train.jsonl", line)

    corpus = read_corpus(path)

    assert corpus.examples[0].entities == ((1, 4, "PER"),)
    assert messages(corpus, path) == [
        (1, "entity 'PER' must not begin or end with a blank, 0-6 does; read as 1-4"),
        (1, "entity 'PER' must cover more than blanks, 4-6 does not; left out"),
    ]


def test_blank_edges_of_a_label_are_trimmed_and_what_joins_letters_in_it_stays(tmp_path):
    joined = "نام\u200cها"
    path = write_lines(tmp_path / "train.jsonl", entity_line([0, 2, " LOC\n"], [0, 2, "LOC"], [2, 3, joined]))

    corpus = read_corpus(path)

    assert corpus.examples[0].entities == ((0, 2, "LOC"), (2, 3, joined))
    assert messages(corpus, path) == [
        (1, r"a label must not begin or end with a blank, ' LOC\n' does; read as 'LOC'"),
        (1, "entity 'LOC' at 0-2 is given twice; kept once"),
    ]


def test_an_id_that_came_before_is_made_unique_and_reported(tmp_path):
    path = write_lines(tmp_path / "train.jsonl", *[{**LINE, "id": name} for name in ("a", "a#2", "a", "a")])

    corpus = read_corpus(path)

    assert [example.id for example in corpus.examples] == ["a", "a#2", "a#3", "a#4"]
    assert messages(corpus, path) == [
        (3, f"id 'a' must be unique, {path}:1 has it too; read as 'a#3'"),
        (4, f"id 'a' must be unique, {path}:1 has it too; read as 'a#4'"),
    ]


def test_strict_reading_stops_at_the_first_problem(tmp_path):
    path = write_lines(tmp_path / "train.jsonl", LINE, entity_line([0, 9, "LOC"]), b"{")

    with pytest.raises(DataError, match=re.escape(f"{path}:2: entity 'LOC' covers characters 0-9")):
        read_corpus(path, strict=True)


def test_a_compressed_file_that_is_cut_off_gives_what_comes_before_the_cut(tmp_path):
    path = tmp_path / "train.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(LINE).encode() + b"\n")[:-9])

    corpus = read_corpus(path)

    assert corpus.examples == (ADA,)
    ((number, message),) = messages(corpus, path)
    assert number == 2
    assert message.startswith("must be a readable file of examples, was not: Compressed file ended")


@pytest.mark.parametrize("format_name", ["auto", "jsonl", "conll"])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.jsonl", None, "must be a readable file of examples, was not: "),
        ("train.jsonl", b"", "must hold at least one example, was empty"),
        ("train.jsonl", b"\xef\xbb\xbf\n \n", "must hold at least one example, was empty"),
        ("train.jsonl.gz", b"plain", "must be a readable file of examples, was not: Not a gzipped file"),
    ],
)
def test_a_file_that_holds_nothing_is_refused(tmp_path, name, content, message, format_name):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(DataError, match=re.escape(f"{path}: {message}")):
        read_corpus(path, format=format_name)


def test_a_file_of_broken_lines_is_refused_with_the_first_problem_and_their_count(tmp_path):
    path = write_lines(tmp_path / "train.jsonl", b"{", {"text": 5, "entities": []}, b"\xff")

    with pytest.raises(DataError) as caught:
        read_corpus(path)

    assert str(caught.value).startswith(f"{path}:1: a line must be one JSON object")
    assert str(caught.value).endswith(" (no example is left; problems: 3)")


def test_a_format_that_we_do_not_know_is_refused():
    with pytest.raises(ConfigError, match=r"format must be one of auto, jsonl, .*, was: 'xml'"):
        read_corpus(Path("train.xml"), format="xml")


def test_a_problem_of_a_whole_file_names_no_line():
    assert str(Problem("a.txt", 3, "broken")) == "a.txt:3: broken"
    assert str(Problem("a.txt", 0, "broken")) == "a.txt: broken"


def test_reading_examples_loads_no_torch():
    assert not modules_after("import gpner.examples, gpner.cli.convert") & {"torch", "transformers", "numpy"}


def test_labels_are_sorted_and_each_once():
    examples = [Example("1", "ab", ((0, 1, "PER"), (1, 2, "LOC"))), Example("2", "ab", ((0, 2, "PER"),))]

    assert labels_of(examples) == ["LOC", "PER"]


PIECES = [
    b'{"text": ',
    b'"a b"',
    b', "entities": ',
    b"[[0, 1, ",
    b'"X"]]}',
    b'{"label": ',
    b'{"X": {"a": [[0, 0]]}}',
    b"}",
]
PIECES += [
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b"-DOCSTART-",
    b"Ada",
    b"B-PER",
    b"I-",
    b"O",
    b"#",
    b"T1\tX 0 1\ta",
    b"\xff",
    b"\x00",
]


@settings(deadline=None, max_examples=300)
@given(st.sampled_from([*READERS, "auto"]), st.lists(st.sampled_from(PIECES), max_size=30))
def test_whatever_a_file_holds_ends_as_examples_and_problems_or_as_one_error(tmp_path_factory, format_name, pieces):
    path = tmp_path_factory.mktemp("data", numbered=True) / "a.ann"
    path.write_bytes(b"".join(pieces))
    path.with_suffix(".txt").write_bytes(b"a b")

    examples, message = (), ""
    try:
        examples = read_corpus(path, format=format_name).examples
    except DataError as error:
        message = str(error)

    assert examples or message.startswith(str(path))
    for example in examples:
        for start, end, _ in example.entities:
            assert example.text[start:end] == example.text[start:end].strip() != ""
