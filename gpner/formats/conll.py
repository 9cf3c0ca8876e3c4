"""CoNLL's format: a token a line, first column the token, last column its tag; a blank line ends a sentence.

With `-DOCSTART-` lines, the sentences between two of them are one example; without, each sentence is. A text is its
tokens joined by blanks and its sentences joined by line feeds. Where at least half of a file's tokens are Chinese or
Japanese, no blanks are put between them: neither language writes any.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpner.formats.lines import Line, read_lines
from gpner.formats.raw import Place, Problem, RawEntity, RawExample
from gpner.formats.tags import Scheme, Tag, decode, make_tag, scheme_of

DOCUMENT_START = "-DOCSTART-"
SENTENCE_END = "\n"
# Ideographs, kana, and the punctuation and full-width forms that go with them.
CHINESE_OR_JAPANESE = re.compile(
    r"[\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]+"
)


@dataclass(frozen=True, slots=True)
class Token:
    """A token with its tag, and the line where it stands."""

    place: Place
    text: str
    tag: Tag


Sentence = list[Token]


def read(path: Path) -> Iterator[RawExample | Problem]:
    """Read a file of columns, plain or .gz; an example's id is the number of its first token's line.

    The columns of a line with a tab in it are what stands between tabs, those of any other line what stands between
    blanks. A line that begins with `#` before a sentence's first token is a comment, unless it has as many columns as
    the other lines and a tag in the last: then `#` is a token.

    The file's tags show which scheme it is in. What the scheme forbids is reported, and read as conlleval does.
    """
    lines = list(read_lines(path))
    width = _usual_width(line.text for line in lines if isinstance(line, Line))
    documents: list[list[Sentence]] = []
    for group in _groups(lines):
        document, problems = _sentences(group, width)
        yield from problems
        if document and not problems:
            documents.append(document)
    sentences = [sentence for document in documents for sentence in document]
    if _are_numbered(sentences):
        yield Problem(str(path), 0, "the first column must hold tokens, holds their numbers; leave that column out")
        return
    scheme = scheme_of([token.tag for token in sentence] for sentence in sentences)
    glue = _glue(token.text for sentence in sentences for token in sentence)
    for document in documents:
        yield from _example(document, scheme, glue)


def columns_of(line: str) -> list[str]:
    """The columns of a line, without the empty ones at its end."""
    if "\t" in line:
        return line.rstrip(" \t").split("\t")
    return [column for column in line.split(" ") if column]


def is_tagged(line: str) -> bool:
    """Whether a line has a token and a tag."""
    columns = columns_of(line)
    return len(columns) > 1 and make_tag(columns[-1]) is not None


def _groups(lines: Sequence[Line | Problem]) -> Iterator[list[Line | Problem]]:
    """The lines of each example."""
    whole_documents = any(map(_starts_document, lines))
    group: list[Line | Problem] = []
    for line in lines:
        if _starts_document(line) or (_is_blank(line) and not whole_documents):
            yield group
            group = []
        else:
            group.append(line)
    yield group


def _sentences(group: Iterable[Line | Problem], width: int) -> tuple[list[Sentence], list[Problem]]:
    """The sentences of one example, and what was wrong with it."""
    sentences: list[Sentence] = [[]]
    problems: list[Problem] = []
    for line in group:
        if isinstance(line, Problem):
            problems.append(line)
        elif _is_blank(line):
            sentences.append([])
        elif sentences[-1] or not _is_comment(line.text, width):
            token = _token(line)
            if isinstance(token, Problem):
                problems.append(token)
            else:
                sentences[-1].append(token)
    return [sentence for sentence in sentences if sentence], problems


def _starts_document(line: Line | Problem) -> bool:
    return isinstance(line, Line) and line.text.startswith(DOCUMENT_START)


def _is_blank(line: Line | Problem) -> bool:
    return isinstance(line, Line) and not line.text.strip(" \t")


def _usual_width(texts: Iterable[str]) -> int:
    widths = Counter(len(columns_of(text)) for text in texts if is_tagged(text))
    return widths.most_common(1)[0][0] if widths else 0


def _is_comment(line: str, width: int) -> bool:
    return line.startswith("#") and not (is_tagged(line) and len(columns_of(line)) == width)


def _token(line: Line) -> Token | Problem:
    columns = columns_of(line.text)
    if len(columns) < 2 or not columns[0].strip(" "):
        return line.place.problem(
            f"a line must hold a token and its tag, was: {line.text[:80]!r}; its example is left out"
        )
    tag = make_tag(columns[-1])
    if tag is None:
        form = "O, or one of B I E S M L U, '-' and a label"
        return line.place.problem(f"a tag must be {form}, was: {columns[-1][:80]!r}; its example is left out")
    return Token(line.place, columns[0], tag)


def _are_numbered(sentences: Iterable[Sentence]) -> bool:
    """Whether what stands in place of the tokens counts them, as in CoNLL-U."""
    several = [sentence for sentence in sentences if len(sentence) > 1]
    return bool(several) and all(
        token.text == str(number) for sentence in several for number, token in enumerate(sentence, 1)
    )


def _glue(tokens: Iterable[str]) -> str:
    """What stands between two tokens."""
    without_blanks = [bool(CHINESE_OR_JAPANESE.fullmatch(token)) for token in tokens]
    return "" if 2 * sum(without_blanks) >= len(without_blanks) else " "


def _example(sentences: list[Sentence], scheme: Scheme, glue: str) -> Iterator[RawExample | Problem]:
    texts: list[str] = []
    entities: list[RawEntity] = []
    begin = 0
    for sentence in sentences:
        starts = [begin]
        for token in sentence:
            starts.append(starts[-1] + len(token.text) + len(glue))
        found, wrong = decode([token.tag for token in sentence], scheme)
        for index, message in wrong:
            yield sentence[index].place.problem(message)
        for first, last, label in found:
            end = starts[last] + len(sentence[last].text)
            entities.append(RawEntity(sentence[first].place, starts[first], end, label))
        texts.append(glue.join(token.text for token in sentence))
        begin += len(texts[-1]) + len(SENTENCE_END)
    place = sentences[0][0].place
    yield RawExample(place, place.line, SENTENCE_END.join(texts), entities)
