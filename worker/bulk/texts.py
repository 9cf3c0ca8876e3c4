"""Rows of text files: JSON lines, CSV and TSV, and files that are one document each."""

import csv
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow
import pydantic_core

from worker.bulk.inputs import Source, open_file
from worker.bulk.rows import Problem

BLOCK_BYTES = 1 << 20
# A longer line is a problem, not a reason to run out of memory: 5 million characters, each escaped, are 60 MB.
LONGEST_LINE_BYTES = 1 << 28
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Record:
    """A row as its file has it: values by column, of any type unless `typed`, and where it stands."""

    row: int
    values: dict[str, Any]
    source: str
    typed: bool = False


class Progress:
    """How many bytes of a source have been read."""

    def __init__(self) -> None:
        self.bytes = 0


Records = Generator[Record | Problem, None, None]


def read_jsonl(source: Source, skip: int, progress: Progress) -> Records:
    """Rows of a file of one JSON object a line; blank lines are none.

    Args:
        source: The file.
        skip: So many rows and problems are left out.
        progress: Is kept up to date.
    """
    for number, line in _lines(source, progress):
        if line is not None and not line.strip():
            continue
        if skip:
            skip -= 1
        elif line is None:
            yield _broken(source, number, f"a line must have at most {LONGEST_LINE_BYTES} bytes, had more")
        else:
            yield _parse(source, number, line)


def _parse(source: Source, number: int, line: bytes) -> Record | Problem:
    try:
        values = pydantic_core.from_json(line, allow_inf_nan=False)
    except ValueError as error:
        return _broken(source, number, f"a line must be one JSON object in UTF-8, was not: {error}")
    if not isinstance(values, dict):
        return _broken(source, number, f"a line must be one JSON object, was: {type(values).__name__}")
    return Record(number, values, source.name)


def read_csv(source: Source, skip: int, progress: Progress) -> Records:
    """Rows of a file of values separated by commas, or tabs in TSV, under a first line of column names.

    All values are strings. The row is the line on which it ends.
    """
    csv.field_size_limit(LONGEST_LINE_BYTES)
    lines = _lines(source, progress)
    with closing(lines):
        # What is no UTF-8 is let through here and found in its row: a quoted value may hold line ends.
        texts = ((line or b"").decode("utf-8", "surrogateescape") + "\n" for _, line in lines)
        rows = csv.reader(texts, delimiter="\t" if source.kind == "tsv" else ",", strict=True)
        columns = next(_csv_rows(source, rows, 0), None)
        if isinstance(columns, Problem) and not skip:
            yield columns
        if columns is None or isinstance(columns, Problem):
            return
        for values in _csv_rows(source, rows, skip):
            if isinstance(values, Problem):
                yield values
            elif len(values) != len(columns):
                wanted, came = len(columns), len(values)
                yield _broken(source, rows.line_num, f"a row must have {wanted} values as the first has, had {came}")
            elif any(not value.isascii() and _is_broken(value) for value in values):
                yield _broken(source, rows.line_num, "a row must be UTF-8, was not; convert the file")
            else:
                yield Record(rows.line_num, dict(zip(columns, values, strict=True)), source.name)


def _csv_rows(source: Source, rows: Any, skip: int) -> Iterator[list[str] | Problem]:
    while True:
        try:
            values = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            values = _broken(source, rows.line_num, f"a row must be well-formed, was not: {error}")
        if not values:
            continue  # a blank line
        if skip:
            skip -= 1
        else:
            yield values


def read_texts(source: Source, skip: int, progress: Progress, *, id_column: str, text_column: str) -> Records:
    """A row for each file: its text in the one column, its name in the other."""
    for name in source.names[skip:]:
        try:
            with open_file(name) as file:
                content = file.read()
            progress.bytes += len(content)
            text = content.removeprefix(BYTE_ORDER_MARK).decode()
        except UnicodeDecodeError as error:
            yield Problem(
                name, name, 0, "BrokenRow", f"a text must be UTF-8, was not at byte {error.start}; convert it"
            )
        except OSError as error:
            yield Problem(name, name, 0, "BrokenRow", f"a text must be a readable file, was not: {error}")
        else:
            yield Record(0, {id_column: name, text_column: text}, name)


def column_names(source: Source) -> Sequence[str]:
    """The first line of a CSV or TSV file, split."""
    with closing(_lines(source, Progress())) as lines:
        texts = ((line or b"").decode("utf-8", "surrogateescape") for _, line in lines)
        return next(csv.reader(texts, delimiter="\t" if source.kind == "tsv" else ","), [])


def _lines(source: Source, progress: Progress) -> Generator[tuple[int, bytes | None], None, None]:
    """Lines with their numbers, counted from 1; None instead of one that is too long. Only a line feed ends a line."""
    number = 1
    rest: list[bytes] = []
    length = 0
    for block in _blocks(source, progress):
        *ends, last = block.split(b"\n")
        for end in ends:
            rest.append(end)
            length += len(end)
            yield number, _joined(rest, length, number)
            rest, length, number = [], 0, number + 1
        length += len(last)
        if last and length <= LONGEST_LINE_BYTES:
            rest.append(last)
    if length:
        yield number, _joined(rest, length, number)


def _joined(parts: Sequence[bytes], length: int, number: int) -> bytes | None:
    if length > LONGEST_LINE_BYTES:
        return None
    line = parts[0] if len(parts) == 1 else b"".join(parts)
    return line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line


def _blocks(source: Source, progress: Progress) -> Iterator[bytes]:
    with open_file(source.name) as file:
        stream: BinaryIO | pyarrow.CompressedInputStream = file
        if source.compression:
            stream = pyarrow.CompressedInputStream(_Watched(file, progress), source.compression)
        while block := stream.read(BLOCK_BYTES):
            if not source.compression:
                progress.bytes += len(block)
            yield block


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
