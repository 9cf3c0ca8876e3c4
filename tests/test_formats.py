"""CLUENER's format, doccano's exports, and telling formats apart."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gpner.errors import DataError
from gpner.examples import Example, read_corpus
from gpner.formats import detect
from tests.corpora import as_cluener, contents, messages, real_corpus, write_lines

CLUENER_LINE = {
    "text": "浙商银行企业信贷部叶老桂博士则从另一个角度对五道门槛进行了解读。叶老桂认为",
    "label": {"name": {"叶老桂": [[9, 11], [32, 34]]}, "company": {"浙商银行": [[0, 3]]}},
}
# As doccano 1.8 exports a project without relations, and one with them.
DOCCANO_LINE = {"id": 42, "text": "Ada met Grace", "label": [[0, 3, "PER"], [8, 13, "PER"]], "Comments": []}
DOCCANO_RELATIONS_LINE = {
    "id": 42,
    "text": "Ada met Grace",
    "entities": [
        {"id": 1, "label": "PER", "start_offset": 0, "end_offset": 3},
        {"id": 2, "label": "PER", "start_offset": 8, "end_offset": 13},
    ],
    "relations": [{"id": 1, "from_id": 1, "to_id": 2, "type": "met"}],
    "Comments": [],
}
ADA = Example("42", "Ada met Grace", ((0, 3, "PER"), (8, 13, "PER")))


def test_offsets_of_cluener_include_the_last_character(tmp_path):
    corpus = read_corpus(write_lines(tmp_path / "train.json", CLUENER_LINE))

    (example,) = corpus.examples
    assert example.entities == ((9, 12, "name"), (32, 35, "name"), (0, 4, "company"))
    assert [example.text[start:end] for start, end, _ in example.entities] == ["叶老桂", "叶老桂", "浙商银行"]
    assert not corpus.problems


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (
            {"name": {"叶老桂": [[9, 12]]}},
            "entity 'name' at 9-13 must cover '叶老桂', the text there is '叶老桂博'; left out",
        ),
        ({"name": {"叶老桂": [[9, 99]]}}, "entity 'name' covers characters 9-100 but the text has 37; left out"),
        ({"name": {"叶老桂": [[9, "11"]]}}, "entity 'name' must start and end at whole numbers, was: '11'; left out"),
        ({"name": {"叶老桂": [9, 11]}}, "a span must be [first, last], was: 9; left out"),
        ({"name": {"叶老桂": 9}}, "'叶老桂' must hold a list of [first, last], was: int; left out"),
        ({"name": [[9, 11]]}, "label 'name' must hold an object of surfaces, was: list; left out"),
    ],
)
def test_a_broken_entity_of_cluener_is_left_out(tmp_path, label, message):
    path = write_lines(tmp_path / "train.json", CLUENER_LINE, {**CLUENER_LINE, "label": label})

    corpus = read_corpus(path)

    assert len(corpus.examples) == 2
    assert corpus.examples[1].entities == ()
    assert messages(corpus, path)[0] == (2, message)


def test_a_line_of_cluener_without_labels_is_reported(tmp_path):
    path = write_lines(tmp_path / "test.json", CLUENER_LINE, {"id": 0, "text": "四川敦煌学"}, {"text": "", "label": []})

    corpus = read_corpus(path)

    assert len(corpus.examples) == 1
    assert messages(corpus, path) == [
        (2, "an example must have the keys 'text' and 'label', was without: 'label'"),
        (3, "'label' must be an object, was: list"),
    ]


def test_the_real_cluener_comes_back_from_its_own_format(tmp_path):
    gold = real_corpus("cluener.dev").examples
    path = write_lines(tmp_path / "dev.json", *map(as_cluener, gold))

    corpus = read_corpus(path)

    assert contents(corpus.examples) == contents(gold)
    assert not corpus.problems


@pytest.mark.parametrize(
    "line",
    [
        DOCCANO_LINE,
        {"id": 42, "text": "Ada met Grace", "labels": [[0, 3, "PER"], [8, 13, "PER"]]},
        {"id": 42, "data": "Ada met Grace", "label": [[0, 3, "PER"], [8, 13, "PER"]]},
        DOCCANO_RELATIONS_LINE,
    ],
)
def test_every_shape_of_doccanos_export_is_read(tmp_path, line):
    corpus = read_corpus(write_lines(tmp_path / "admin.jsonl", line))

    assert corpus.examples == (ADA,)
    assert not corpus.problems


def test_an_export_with_relations_is_told_by_its_first_entity(tmp_path):
    empty = {**DOCCANO_RELATIONS_LINE, "id": 41, "entities": [], "relations": []}

    corpus = read_corpus(write_lines(tmp_path / "admin.jsonl", empty, DOCCANO_RELATIONS_LINE))

    assert corpus.examples == (Example("41", "Ada met Grace", ()), ADA)


def test_doccanos_offsets_are_utf_16_code_units_and_it_is_reported_where_that_matters(tmp_path):
    emoji = {"id": 1, "text": "Ada 👩 met Grace", "label": [[0, 3, "PER"], [4, 6, "WOMAN"], [11, 16, "PER"]]}
    before = {"id": 2, "text": "Ada 👩", "label": [[0, 3, "PER"]]}
    path = write_lines(tmp_path / "admin.jsonl", emoji, before)

    corpus = read_corpus(path)

    (example, other) = corpus.examples
    assert [example.text[start:end] for start, end, _ in example.entities] == ["Ada", "👩", "Grace"]
    assert other.entities == ((0, 3, "PER"),)
    ((number, message),) = messages(corpus, path)
    assert number == 1
    assert "were read as UTF-16 code units, as doccano counts; check them" in message


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([4, 5, "X"], "entity 'X' at 4-5 must not cut a character in two; left out"),
        ([0, 99, "X"], "entity 'X' covers characters 0-99 but the text has 9; left out"),
        ([0, 2], "an entity must be [start, end, label] or an object with 'start_offset', 'end_offset' and 'label'"),
        ("positive", "an entity must be [start, end, label] or an object"),
        (
            {"label": 7, "start_offset": 0, "end_offset": 3},
            "a label must be a string that is not empty, was: 7; left out",
        ),
    ],
)
def test_a_broken_entity_of_doccano_is_left_out(tmp_path, label, message):
    path = write_lines(tmp_path / "admin.jsonl", DOCCANO_LINE, {"id": 2, "text": "Ada 👩 met", "label": [label]})

    corpus = read_corpus(path)

    assert corpus.examples[1].entities == ()
    ((number, came),) = messages(corpus, path)
    assert number == 2
    assert message in came


def test_an_export_with_numbers_for_labels_is_refused(tmp_path):
    annotations = [{"label": 7, "start_offset": 0, "end_offset": 3, "user": 1}]
    path = write_lines(tmp_path / "old.json1", {"id": 1, "text": "Ada", "annotations": annotations})

    with pytest.raises(DataError, match="must have the key 'entities' or 'label' or 'labels', was with: id, text, ann"):
        read_corpus(path, format="doccano")


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b'{"text": "", "entities": []}', "jsonl"),
        (b'broken\n{"text": "a", "entities": [[0, 1, "X"]], "label": ["meta"]}', "jsonl"),
        (b'{"text": "a", "entities": [{"start": 0, "end": 1, "label": "X"}]}', "jsonl"),
        (b"{\n{\n", "jsonl"),
        (b'{"text": "a", "label": {"X": {"a": [[0, 0]]}}}', "cluener"),
        (b'{"text": "a", "label": [[0, 1, "X"]]}', "doccano"),
        (b'{"text": "a", "entities": []}\n{"entities": [{"label": "X", "start_offset": 0}]}', "doccano"),
        (b"Ada B-PER\nmet O\n", "conll"),
        (b"\xef\xbb\xbf-DOCSTART- -X- -X- O\r\n\r\nAda NNP B-NP I-PER\r\n", "conll"),
        (b"{\tO\nAda\tS-PER\n", "conll"),
        (b"# id 1\nAda _ _ B-PER\nmet _ _ O\nbroken\n", "conll"),
    ],
)
def test_a_format_is_told_by_the_content(tmp_path, content, name):
    path = tmp_path / "data.txt"
    path.write_bytes(content)

    assert detect(path) == name


def test_a_folder_and_either_of_a_pair_are_brats(tmp_path):
    for suffix in ("txt", "ann"):
        (tmp_path / f"a.{suffix}").write_text("")

    assert {detect(path) for path in (tmp_path, tmp_path / "a.txt", tmp_path / "a.ann")} == {"brat"}


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (b"Call me Ishmael.\n", "'Call me Ishmael.'"),
        (b'{"tokens": ["Ada"], "ner_tags": [1]}\n', "an object with the keys tokens, ner_tags"),
        (b'[{"text": "a", "entities": []}]\n', '\'[{"text"'),
        (b"Ada,B-PER\nmet,O\n", "'Ada,B-PER'"),
    ],
)
def test_a_file_of_no_known_format_is_refused_with_what_was_seen(tmp_path, content, seen):
    path = tmp_path / "data.txt"
    path.write_bytes(content)
    known = f"{path}: must be in one of the formats jsonl, cluener, conll, brat, doccano; its first line is {seen}"

    with pytest.raises(DataError, match=re.escape(known)):
        read_corpus(path)


def test_a_file_that_is_not_utf_8_is_refused_with_its_first_line(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes('{"text": "ü"}'.encode("latin-1"))

    with pytest.raises(DataError, match=re.escape(f"{path}:1: a line must be UTF-8, was not at byte 10")):
        read_corpus(path)


def test_a_folder_without_annotations_is_refused(tmp_path: Path):
    (tmp_path / "a.txt").write_text("")

    with pytest.raises(DataError, match=re.escape("a folder must hold .txt and .ann files, has no .ann; name a file")):
        read_corpus(tmp_path)


def test_a_file_in_utf_16_is_refused_for_that(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes('{"text": "a", "entities": []}\n{"text": "b", "entities": []}\n'.encode("utf-16"))

    with pytest.raises(DataError, match=f"{re.escape(str(path))}:1: a line must be UTF-8, was not at byte 0"):
        detect(path)


def test_a_pipe_is_not_looked_at_as_that_would_lose_its_first_lines(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)

    with pytest.raises(DataError, match="must be a file or folder for its format to be told"):
        detect(path)


def test_a_pipe_whose_format_is_named_is_read_from_its_first_line(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    line = b'{"text": "a", "entities": []}\n'
    with ThreadPoolExecutor() as pool:
        written = pool.submit(path.write_bytes, line * 1000)
        corpus = read_corpus(path, format="jsonl")
        written.result()

    assert len(corpus.examples) == 1000
