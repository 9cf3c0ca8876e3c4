"""CoNLL's columns in every scheme of tags."""

import gzip
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpner.errors import DataError
from gpner.examples import Example, read_corpus
from tests.corpora import SCHEMES, Entities, contents, messages, real_corpus

CONLL_2003 = """-DOCSTART- -X- -X- O

EU NNP I-NP I-ORG
rejects VBZ I-VP O
German JJ I-NP I-MISC
call NN I-NP O

Peter NNP I-NP I-PER
Blackburn NNP I-NP I-PER

-DOCSTART- -X- -X- O

BRUSSELS NNP I-NP I-LOC
"""


def write(folder: Path, content: str) -> Path:
    path = folder / "train.conll"
    path.write_bytes(content.encode())
    return path


def found(example: Example) -> list[tuple[str, str]]:
    return [(example.text[start:end], label) for start, end, label in example.entities]


def test_the_sentences_between_two_document_starts_are_one_example(tmp_path):
    corpus = read_corpus(write(tmp_path, CONLL_2003), strict=True)

    assert [(example.id, example.text) for example in corpus.examples] == [
        ("3", "EU rejects German call\nPeter Blackburn"),
        ("13", "BRUSSELS"),
    ]
    assert found(corpus.examples[0]) == [("EU", "ORG"), ("German", "MISC"), ("Peter Blackburn", "PER")]


def test_without_document_starts_each_sentence_is_an_example(tmp_path):
    corpus = read_corpus(
        write(tmp_path, "\nEmpire\tB-location\nState\tI-location\n\n\t\nESB\tB-location\n.\tO"), strict=True
    )

    assert [(example.id, example.text) for example in corpus.examples] == [("2", "Empire State"), ("6", "ESB .")]
    assert [found(example) for example in corpus.examples] == [[("Empire State", "location")], [("ESB", "location")]]


def test_chinese_characters_are_joined_without_blanks(tmp_path):
    tagged = "叶 B-NAME|老 M-NAME|桂 E-NAME|用 O|i B-PRODUCT|P M-PRODUCT|h E-PRODUCT|， O||京 S-GPE|。 O"

    corpus = read_corpus(write(tmp_path, tagged.replace("|", "\r\n")), strict=True)

    assert [example.text for example in corpus.examples] == ["叶老桂用iPh，", "京。"]
    assert [found(example) for example in corpus.examples] == [
        [("叶老桂", "NAME"), ("iPh", "PRODUCT")],
        [("京", "GPE")],
    ]


def test_a_few_chinese_tokens_do_not_take_the_blanks_from_an_english_file(tmp_path):
    corpus = read_corpus(write(tmp_path, "I O\nlove O\n北京 B-LOC\n! O\n"), strict=True)

    assert corpus.examples[0].text == "I love 北京 !"


def test_blanks_inside_a_token_stay_where_columns_are_parted_by_tabs(tmp_path):
    corpus = read_corpus(write(tmp_path, "New York\tx\tB-work of art\t\nis\u3000big\tx\tO\n"), strict=True)

    assert corpus.examples == (Example("1", "New York is\u3000big", ((0, 8, "work of art"),)),)


def test_comments_are_left_out_and_tokens_that_look_like_them_are_not(tmp_path):
    lines = ["# id = 1", "# text = Plan B-1", "# O", "#ner B-TOPIC", "# O", "", "#1 on O x O", "Ada B-PER"]

    corpus = read_corpus(write(tmp_path, "\n".join(lines)), strict=True)

    assert [example.text for example in corpus.examples] == ["# #ner #", "Ada"]
    assert found(corpus.examples[0]) == [("#ner", "TOPIC")]


@pytest.mark.parametrize(
    ("tags", "entities", "wrong"),
    [
        # Two entities in IOB2 show the scheme before the sequence in question.
        ("B-X I-X O B-X O I-PER I-PER", ["f g"], [(6, "I-PER must continue an entity of its label, follows none")]),
        ("B-X O B-X O B-PER I-LOC O", ["e", "f"], [(6, "I-LOC must continue an entity of its label, follows none")]),
        ("B-X O B-X I-X O B-PER E-PER", ["f g"], [(7, "a tag of IOB2 must begin with B or I, was: E-PER")]),
        ("B-X O B-X O B-X S-PER I-PER", ["f", "g"], [(6, "was: S-PER"), (7, "I-PER must continue an entity")]),
        ("I-X I-X O I-X B-X O I-PER", ["g"], []),
        ("S-X B-X E-X O B-PER I-PER O", ["e f"], [(6, "an entity must have an end in BIOES, has none")]),
        ("S-X B-X E-X O O I-PER E-PER", ["f g"], [(6, "I-PER must continue an entity of its label, follows none")]),
        ("U-X B-X L-X O O L-PER O", ["f"], [(6, "L-PER must continue an entity of its label, follows none")]),
        ("S-X B-X M-X E-X B-PER B-PER E-PER", ["e", "f g"], [(5, "an entity must have an end in BMES, has none")]),
    ],
)
def test_what_the_scheme_forbids_is_reported_and_read_as_conlleval_does(tmp_path, tags, entities, wrong):
    lines = [f"{token} {tag}" for token, tag in zip("abcdefg", tags.split(), strict=True)]
    path = write(tmp_path, "\n".join(lines))

    corpus = read_corpus(path)

    assert [text for text, label in found(corpus.examples[0]) if label != "X"] == entities
    came = messages(corpus, path)
    assert [number for number, _ in came] == [number for number, _ in wrong]
    assert all(part in message for (_, message), (_, part) in zip(came, wrong, strict=True))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"Grace", "a line must hold a token and its tag, was: 'Grace'; its example is left out"),
        (b"\tO", "a line must hold a token and its tag, was: '\\tO'; its example is left out"),
        (
            b"Grace PER",
            "a tag must be O, or one of B I E S M L U, '-' and a label, was: 'PER'; its example is left out",
        ),
        (b"Grace B-", "a tag must be O, or one of B I E S M L U, '-' and a label, was: 'B-'; its example is left out"),
        (b"Gr\xffce B-PER", "a line must be UTF-8, was not at byte 2; convert the file"),
    ],
)
@pytest.mark.parametrize(("start", "left"), [(b"", ["Ada", "x"]), (b"-DOCSTART- O\n", ["x"])])
def test_a_broken_line_loses_its_sentence_or_document(tmp_path, line, message, start, left):
    path = tmp_path / "train.conll"
    path.write_bytes(start + b"Ada B-PER\n\nhello O\n" + line + b"\n\n" + start + b"x O\n")

    corpus = read_corpus(path)

    assert [example.text for example in corpus.examples] == left
    assert messages(corpus, path) == [(4 + bool(start), message)]


def test_a_sentence_that_a_compressed_file_ends_in_is_left_out(tmp_path):
    path = tmp_path / "train.conll.gz"
    path.write_bytes(gzip.compress(b"Ada B-PER\n\nGrace B-PER\nHop")[:-9])

    corpus = read_corpus(path)

    assert [example.text for example in corpus.examples] == ["Ada"]
    assert [number for number, _ in messages(corpus, path)] == [4]


def test_a_file_of_one_column_is_refused(tmp_path):
    path = write(tmp_path, "Ada\nmet\n")

    with pytest.raises(DataError, match=re.escape(f"{path}:1: a line must hold a token and its tag, was: 'Ada'")):
        read_corpus(path, format="conll")


def test_a_file_that_numbers_its_tokens_first_is_refused(tmp_path):
    path = write(tmp_path, "# source 1\n1 Ada B-PER O\n2 Lovelace I-PER O\n\n1 Yes O O\n")

    with pytest.raises(DataError, match=re.escape(f"{path}: the first column must hold tokens, holds their numbers")):
        read_corpus(path)


@st.composite
def sentences(draw: st.DrawFn, words: Sequence[str]) -> tuple[list[str], Entities]:
    tokens = draw(st.lists(st.sampled_from(words), min_size=1, max_size=12))
    entities, first = [], 0
    while first < len(tokens):
        last = draw(st.integers(first, len(tokens) - 1))
        label = draw(st.sampled_from(["", "PER", "B-LOC"]))
        if label:
            entities.append((first, last, label))
        first = last + 1
    return tokens, entities


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("words", "glue"), [(["Ada", "#", "O", "B-PER", "-", "{", "é👩"], " "), (["北", "京", "，", "東京", "の"], "")]
)
def test_flat_entities_come_back_from_every_scheme(tmp_path_factory, scheme, words, glue):
    @settings(deadline=None, max_examples=60)
    @given(st.lists(sentences(words), min_size=1, max_size=5), st.booleans())
    def check(drawn: list[tuple[list[str], Entities]], one_document: bool) -> None:
        path = tmp_path_factory.mktemp("conll", numbered=True) / "train.conll"
        lines = ["-DOCSTART- O"] if one_document else []
        for tokens, entities in drawn:
            lines += [
                f"{token} {tag}" for token, tag in zip(tokens, SCHEMES[scheme](len(tokens), entities), strict=True)
            ]
            lines.append("")
        path.write_text("\n".join(lines), encoding="utf-8")

        corpus = read_corpus(path, format="conll", strict=True)

        of_each = [example_of(tokens, entities, glue) for tokens, entities in drawn]
        assert contents(corpus.examples) == ([joined(of_each)] if one_document else of_each)

    check()


def example_of(tokens: list[str], entities: Entities, glue: str) -> tuple[str, set[tuple[int, int, str]]]:
    spans = set()
    for first, last, label in entities:
        start = len(glue.join([*tokens[:first], ""]))
        spans.add((start, start + len(glue.join(tokens[first : last + 1])), label))
    return glue.join(tokens), spans


def joined(examples: list[tuple[str, set[tuple[int, int, str]]]]) -> tuple[str, set[tuple[int, int, str]]]:
    text, spans = "", set()
    for of_sentence, entities in examples:
        begin = len(text) + 1 if text else 0
        text = f"{text}\n{of_sentence}" if text else of_sentence
        spans |= {(begin + start, begin + end, label) for start, end, label in entities}
    return text, spans


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_real_wnut17_comes_back_from_every_scheme(tmp_path, scheme):
    gold = real_corpus("wnut17.test").examples
    lines = []
    for example in gold:
        tokens = example.text.split(" ")
        starts = {len(" ".join([*tokens[:index], ""])): index for index in range(len(tokens))}
        spans = [
            (starts[start], starts[start] + example.text[start:end].count(" "), label)
            for start, end, label in example.entities
        ]
        tags = SCHEMES[scheme](len(tokens), spans)
        lines += [*(f"{token}\t{tag}" for token, tag in zip(tokens, tags, strict=True)), ""]
    path = write(tmp_path, "\n".join(lines))

    corpus = read_corpus(path)

    assert contents(corpus.examples) == contents(gold)
    assert not corpus.problems
