"""brat folders: pairs of a text and its annotations."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpner.errors import DataError
from gpner.examples import Example, read_corpus
from tests.corpora import contents, messages, places, real_corpus, write_brat

TEXT = "Ada Lovelace met\nCharles Babbage.\n"
ANNOTATIONS = """T1\tPER 0 12\tAda Lovelace
T2\tPER 17 32\tCharles Babbage
R1\tmet Arg1:T1 Arg2:T2
E1\tmeet:T3 Who:T1
A1\tFamous T1
N1\tReference T1 Wikipedia:534366\tAda Lovelace
*\tEquiv T1 T4
#1\tAnnotatorNotes T1\tthe first programmer
T3\tMEETING 4 32\tLovelace met Charles Babbage
"""


def write_pair(folder: Path, text: str | bytes = TEXT, annotations: str = ANNOTATIONS) -> Path:
    (folder / "ada.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    (folder / "ada.ann").write_bytes(annotations.encode())
    return folder / "ada.ann"


def test_a_folder_gives_an_example_for_each_pair_in_the_order_of_names(tmp_path):
    (tmp_path / "more").mkdir()
    write_pair(tmp_path / "more")
    write_pair(tmp_path)
    (tmp_path / "annotation.conf").write_text("[entities]\nPER\n")

    corpus = read_corpus(tmp_path)

    entities = ((0, 12, "PER"), (17, 32, "PER"), (4, 32, "MEETING"))
    assert corpus.examples == (Example("ada", TEXT, entities), Example("more/ada", TEXT, entities))
    assert not corpus.problems


@pytest.mark.parametrize("name", ["ada.txt", "ada.ann"])
def test_one_pair_is_named_by_either_of_its_files(tmp_path, name):
    write_pair(tmp_path)

    assert [example.id for example in read_corpus(tmp_path / name).examples] == ["ada"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("T9\tPER 0 3;17 24\tAda Charles", "entity 'PER' must be one span, was several: 0 3;17 24; left out"),
        ("T9\tPER 0 3\tBob", "entity 'PER' at 0-3 must cover 'Bob', the text there is 'Ada'; left out"),
        ("T9\tPER 0 99\tAda", "entity 'PER' covers characters 0-99 but the text has 34; left out"),
        ("T9\tPER 0 4\tAda ", "entity 'PER' must not begin or end with a blank, 0-4 does; read as 0-3"),
        ("T9\tPER 16 17\t ", "entity 'PER' must cover more than blanks, 16-17 does not; left out"),
        ("T9\tPER 3 3\t", "entity 'PER' must start at 0 or later and end after its start, was: 3-3; left out"),
        ("T9 PER 0 3 Ada", "an entity must read 'T1', tab, 'LABEL START END', tab, text; was: 'T9 PER 0 3 Ada'"),
        ("T9\tPER -1 3\tAda", "an entity must read 'T1', tab, 'LABEL START END', tab, text; was: 'T9\\tPER -1 3"),
        ("T9\tBIG PER 0 3\tAda", "an entity must read"),
        ("PER 0 3", "an entity must read"),
    ],
)
def test_a_line_that_is_not_taken_as_it_stands_is_reported(tmp_path, line, message):
    path = write_pair(tmp_path, annotations=f"T1\tPER 0 12\tAda Lovelace\n\n{line}\n")

    corpus = read_corpus(tmp_path)

    assert (0, 12, "PER") in corpus.examples[0].entities
    ((number, came),) = messages(corpus, path)
    assert number == 3
    assert message in came


def test_what_line_a_text_is_not_utf_8_in_is_reported(tmp_path):
    write_pair(tmp_path, text=b"Ada\nmet \xff Grace")

    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'ada.txt'}:2: a text must be UTF-8, was not; convert")):
        read_corpus(tmp_path)


def test_annotations_that_are_not_utf_8_lose_only_their_line(tmp_path):
    path = write_pair(tmp_path, annotations="")
    path.write_bytes(b"T1\tPER 0 3\tAda\nT2\tPER 0 3\t\xff\n")

    corpus = read_corpus(tmp_path)

    assert corpus.examples[0].entities == ((0, 3, "PER"),)
    assert messages(corpus, path) == [(2, "a line must be UTF-8, was not at byte 11; convert the file")]


@pytest.mark.parametrize("missing", ["b.txt", "b.ann"])
def test_a_file_without_its_other_half_is_reported(tmp_path, missing):
    write_pair(tmp_path)
    for name in {"b.txt", "b.ann"} - {missing}:
        (tmp_path / name).write_text("")

    corpus = read_corpus(tmp_path)

    assert [example.id for example in corpus.examples] == ["ada"]
    assert messages(corpus, tmp_path / missing) == [
        (0, "a pair of .txt and .ann must be there, was not: No such file or directory; left out")
    ]


def test_line_ends_and_a_byte_order_mark_count_as_brat_counts_them(tmp_path):
    annotations = "T1\tPER 1 4\tAda\r\nT2\tPER 6 11\tGrace\r\nT3\tPAIR 1 11\tAda  Grace\r\n"
    write_pair(tmp_path, text="\ufeffAda\r\nGrace\r\n", annotations=annotations)

    corpus = read_corpus(tmp_path)

    (example,) = corpus.examples
    assert [example.text[start:end] for start, end, _ in example.entities] == ["Ada", "Grace", "Ada\r\nGrace"]
    assert not corpus.problems


def test_the_nested_entities_of_the_real_litbank_come_back_from_brat(tmp_path):
    gold = real_corpus("litbank").examples
    write_brat(tmp_path, gold)

    corpus = read_corpus(tmp_path)

    assert contents(corpus.examples) == contents(sorted(gold, key=lambda example: example.id))
    assert not corpus.problems


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.text("aé北👩", min_size=1, max_size=5), st.sampled_from(["", "PER", "LOC"])), min_size=1))
def test_examples_written_as_brat_read_back_the_same(tmp_path_factory, words):
    folder = tmp_path_factory.mktemp("brat", numbered=True)
    text = "\n".join(word for word, _ in words)
    starts = [sum(len(word) + 1 for word, _ in words[:index]) for index in range(len(words))]
    found = zip(starts, words, strict=True)
    entities = tuple((start, start + len(word), label) for start, (word, label) in found if label)
    write_brat(folder, [Example("a", text, (*entities, (0, len(text), "ALL")))])

    corpus = read_corpus(folder)

    assert contents(corpus.examples) == [(text, {*entities, (0, len(text), "ALL")})]
    assert places(corpus.problems) == []
