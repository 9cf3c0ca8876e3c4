"""Rows of text files: JSON lines, CSV and TSV, and files that are one document each."""

import csv
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import pyarrow
import pydantic_core

from worker.bulk.inputs import STANDARD_INPUT, Source
from worker.bulk.rows import Problem

BLOCK_BYTES = 1 << 20
# A longer line is a problem, not a reason to run out of memory: 5 million characters, each escaped, are 60 MB.
LONGEST_LINE_BYTES = 1 << 28
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
DELIMITERS = {"csv": ",", "tsv": "\t"}


@dataclass(frozen=True, slots=True)
class Record:
    """A row as its file has it: values by column, of any type unless `typed`, and where it stands."""

    row: int
    values: dict[str, Any]
    source: str
    typed: bool = False


@dataclass(slots=True)
class Progress:
    """How many bytes of a source have been read, and whether the last line that was read had no end."""

    bytes: int = 0
    unended: bool = False


class Line(NamedTuple):
    """A line with its number, counted from 1; without a content if it is too long."""

    number: int
    content: bytes | None


Records = Generator[Record | Problem, None, None]


def read_jsonl(source: Source, skip: int, progress: Progress, columns: Sequence[str]) -> Records:
    """Rows of a file of one JSON object a line; blank lines are none. Only a line feed ends a line.

    Args:
        source: The file.
        skip: So many rows and problems are left out.
        progress: Is kept up to date.
        columns: What is taken of a row.
    """
    for number, line in _lines(source, progress, LONGEST_LINE_BYTES, _at_line_feeds):
        if line is not None and not line.strip():
            continue
        if skip:
            skip -= 1
        elif line is None:
            yield _broken(source, number, f"a line must have at most {LONGEST_LINE_BYTES} bytes, had more")
        else:
            yield _parse(source, number, line, columns)


def _parse(source: Source, number: int, line: bytes, columns: Sequence[str]) -> Record | Problem:
    try:
        values = pydantic_core.from_json(line, allow_inf_nan=False)
    except ValueError as error:
        return _broken(source, number, f"a line must be one JSON object in UTF-8, was not: {error}")
    if not isinstance(values, dict):
        return _broken(source, number, f"a line must be one JSON object, was: {type(values).__name__}")
    return Record(number, {name: values[name] for name in columns if name in values}, source.name)


def read_csv(source: Source, skip: int, progress: Progress, columns: Sequence[str], most_bytes: int) -> Records:
    """Rows of a file of values separated by commas, or tabs in TSV, under a first line of column names.

    All values are strings. A row is named by the line on which it begins. One that is not well-formed, or has more than
    `most_bytes`, is a problem, and the next row is looked for on the line behind that one: what an unclosed quote would
    swallow is read.

    Raises:
        ValueError: If the first line does not name the first of the columns asked for, or names one of them twice.
    """
    csv.field_size_limit(most_bytes)
    with closing(_lines(source, progress, most_bytes, _at_line_ends)) as lines:
        rows = _csv_rows(source, _Feed(lines, most_bytes), progress)
        header = next(rows, None)
        if header is None:
            return
        if isinstance(header, Problem):
            raise ValueError(header.message)
        _, names = header
        check_names(names, columns)
        for row in rows:
            if skip:
                skip -= 1
            elif isinstance(row, Problem):
                yield row
            else:
                yield _csv_record(source, *row, names, columns)


def _csv_record(
    source: Source, number: int, values: Sequence[str], names: Sequence[str], columns: Sequence[str]
) -> Record | Problem:
    if len(values) != len(names):
        return _broken(source, number, f"a row must have {len(names)} values as the first has, had {len(values)}")
    # What is no UTF-8 was let through until here: a quoted value may hold line ends.
    if any(not value.isascii() and _is_broken(value) for value in values):
        return _broken(source, number, "a row must be UTF-8, was not; convert the file")
    found = dict(zip(names, values, strict=True))
    return Record(number, {name: found[name] for name in columns if name in found}, source.name)


class _Feed:
    """Lines for `csv.reader`; those of the row that is being read can be given back."""

    def __init__(self, lines: Iterator[Line], most_bytes: int) -> None:
        self._lines = lines
        self._most_bytes = most_bytes
        self._given_back: deque[Line] = deque()
        self._row: list[Line] = []
        self._bytes = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._given_back.popleft() if self._given_back else next(self._lines)
        self._row.append(line)
        self._bytes += len(line.content or b"")
        if line.content is None or self._bytes > self._most_bytes:
            raise csv.Error(f"it had more than {self._most_bytes} bytes; is a quote not closed?")
        return line.content.decode("utf-8", "surrogateescape")

    @property
    def number(self) -> int:
        """The line on which the row begins."""
        return self._row[0].number

    def begin(self) -> None:
        """Begin another row."""
        self._row.clear()
        self._bytes = 0

    def give_back(self) -> None:
        """Have the lines of the row again, but for the first."""
        self._given_back.extendleft(reversed(self._row[1:]))


def _csv_rows(source: Source, feed: _Feed, progress: Progress) -> Iterator[tuple[int, list[str]] | Problem]:
    reader = csv.reader(feed, delimiter=DELIMITERS[source.kind], strict=True)
    while True:
        feed.begin()
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            progress.unended |= "end of data" in str(error)  # if the file grows, the quote may be closed
            yield _broken(source, feed.number, f"a row must be well-formed, was not: {error}")
            feed.give_back()
        else:
            if values:  # a blank line has none
                yield feed.number, values


def read_texts(
    source: Source, skip: int, progress: Progress, most_bytes: int, id_column: str, text_column: str
) -> Records:
    """A row for each file: its text in the one column, its name in the other."""
    for each in source.files[skip:]:
        name = each.name
        try:
            with each.open() as file:
                content = file.read(most_bytes + 1)
            progress.bytes += len(content)
            if len(content) > most_bytes:
                message = f"a text must have at most {most_bytes} bytes, had more; split it"
                yield Problem(name, name, 0, "DocumentError", message)
            else:
                text = content.removeprefix(BYTE_ORDER_MARK).decode()
                yield Record(0, {id_column: name, text_column: text}, name)
        except UnicodeDecodeError as error:
            message = f"a text must be UTF-8, was not at byte {error.start}; convert it"
            yield Problem(name, name, 0, "BrokenRow", message)
        except OSError as error:
            yield Problem(name, name, 0, "BrokenRow", f"a text must be a readable file, was not: {error}")


def column_names(source: Source) -> Sequence[str]:
    """The first line of a CSV or TSV file, split.

    Raises:
        ValueError: If it is no UTF-8.
    """
    csv.field_size_limit(LONGEST_LINE_BYTES)
    lines = _lines(source, Progress(), LONGEST_LINE_BYTES, _at_line_ends)
    with closing(lines):
        texts = ((line.content or b"").decode() for line in lines)
        return next(csv.reader(texts, delimiter=DELIMITERS[source.kind]), [])


def listed(names: Sequence[str]) -> str:
    """Columns in a message, which a first line that is none could make endless."""
    return f"{', '.join(names):.500}"


def check_names(names: Sequence[str], columns: Sequence[str]) -> None:
    """Check a table's or file's columns.

    Args:
        names: The columns that it has.
        columns: Those asked for; the first of them must be there.

    Raises:
        ValueError: If it is not, or if one of those asked for is there twice.
    """
    if columns[0] not in names:
        if any(map(_is_broken, names)):
            raise ValueError("the names of its columns must be UTF-8, were not; convert the file")
        raise ValueError(f"it must have a column {columns[0]}, has {listed(names)}")
    for name in columns:
        if names.count(name) > 1:
            raise ValueError(f"its columns must have different names, two are called {name}")


def _lines(
    source: Source, progress: Progress, most_bytes: int, split: Callable[[bytes], list[bytes]]
) -> Generator[Line, None, None]:
    """Lines, split as `split` does it, which gives what is behind the last end of a line at last."""
    number = 1
    rest: list[bytes] = []
    length = 0
    for block in _blocks(source, progress):
        *ends, last = split(block)
        for end in ends:
            rest.append(end)
            length += len(end)
            yield _line(rest, length, number, most_bytes)
            rest, length, number = [], 0, number + 1
        length += len(last)
        if last and length <= most_bytes:
            rest.append(last)
    if length:
        progress.unended = True
        yield _line(rest, length, number, most_bytes)


def _at_line_feeds(block: bytes) -> list[bytes]:
    return block.split(b"\n")


def _at_line_ends(block: bytes) -> list[bytes]:
    """Split at every line feed, carriage return, or both in this order; lines keep their ends."""
    lines = block.splitlines(keepends=True)
    return [*lines, b""] if block.endswith((b"\n", b"\r")) else lines


def _line(parts: Sequence[bytes], length: int, number: int, most_bytes: int) -> Line:
    if length > most_bytes:
        return Line(number, None)
    content = parts[0] if len(parts) == 1 else b"".join(parts)
    return Line(number, content.removeprefix(BYTE_ORDER_MARK) if number == 1 else content)


def _blocks(source: Source, progress: Progress) -> Iterator[bytes]:
    """The content, in blocks of which only the last may end between a carriage return and its line feed.

    What a local file has grown by since its size was looked at is left to the next run: it may end in half a line.
    """
    with source.file.open() as file:
        stream: BinaryIO | pyarrow.CompressedInputStream = file
        if source.compression:
            stream = pyarrow.CompressedInputStream(_Watched(file, progress), source.compression)
        held = b""
        is_local = source.file.remote is None and source.name != STANDARD_INPUT
        is_bounded = is_local and not source.compression
        left = source.size if is_bounded else sys.maxsize
        while block := stream.read(min(BLOCK_BYTES, left)):
            left -= len(block)
            if not source.compression:
                progress.bytes += len(block)
            block = held + block if held else block
            held = b"\r" if block.endswith(b"\r") else b""
            if whole := block[:-1] if held else block:
                yield whole
        if held:
            yield held


class _Watched:
    """A file for pyarrow that keeps count of what is read."""

    closed = False

    def __init__(self, file: BinaryIO, progress: Progress) -> None:
        self._file = file
        self._progress = progress

    def read(self, size: int = -1) -> bytes:
        content = self._file.read(size)
        self._progress.bytes += len(content)
        return content

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        """The file is closed by whoever opened it."""


def _is_broken(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False


def _broken(source: Source, row: int, message: str) -> Problem:
    return Problem(None, source.name, row, "BrokenRow", message)
