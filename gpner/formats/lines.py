"""Lines and JSON objects of a file, plain, .gz or .zst; what cannot be read becomes a problem with its line."""

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from gpner.errors import ConfigError, DataError
from gpner.formats.raw import Place, Problem, RawExample

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """A line without its end, and where it stands."""

    place: Place
    text: str


def read_lines(path: Path, content: str = "examples") -> Iterator[Line | Problem]:
    """The lines of a file in UTF-8, counted from 1, blank ones too; a byte-order mark at its beginning is left out.

    Only a line feed (with a carriage return before it or not) ends a line: U+2028 and the like are text. A compressed
    file that is cut off or damaged ends in a problem after the lines that could be read.

    Args:
        path: The file; its ending tells the compression.
        content: What it should hold, for messages.

    Raises:
        ConfigError: If it needs a package that is not installed.
    """
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                yield _decode(Place(str(path), number), line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line)
    except (OSError, EOFError, zlib.error) as error:
        place = Place(str(path), number + 1 if number else 0)
        yield place.problem(f"must be a readable file of {content}, was not: {error}")


def import_pyarrow(path: Path) -> Any:
    """Import what reads Parquet, and reads and writes Zstandard.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise ConfigError(
            f"{path} can be read and written only with the package pyarrow, it is not installed; run "
            "`pip install 'gpner[bulk]'`"
        ) from None
    return pyarrow


def _open(path: Path) -> BinaryIO:
    if path.suffix.lower() == ".gz":
        return cast(BinaryIO, gzip.open(path))
    if path.suffix.lower() == ".zst":
        return cast(BinaryIO, io.BufferedReader(import_pyarrow(path).input_stream(str(path), compression="zstd")))
    return path.open("rb")


def _decode(place: Place, line: bytes) -> Line | Problem:
    try:
        return Line(place, line.decode().removesuffix("\n").removesuffix("\r"))
    except UnicodeDecodeError as error:
        return place.problem(f"a line must be UTF-8, was not at byte {error.start}; convert the file")


def read_objects(
    path: Path, parse: Callable[[dict[str, Any], Place], Iterator[RawExample | Problem]]
) -> Iterator[RawExample | Problem]:
    """Parse a file of one JSON object a line; blank lines are skipped.

    Args:
        path: The file.
        parse: Turns an object into an example, and problems of its parts; a DataError of it becomes a problem of the
            line.
    """
    for line in read_lines(path):
        if isinstance(line, Problem):
            yield line
        elif line.text.strip():
            try:
                yield from parse(parse_object(line.text), line.place)
            except DataError as error:
                yield line.place.problem(str(error))


def parse_object(line: str) -> dict[str, Any]:
    """Parse a line that must be a JSON object.

    Raises:
        DataError: If it is not.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"a line must be one JSON object, was not: {error}") from None
    if not isinstance(row, dict):
        raise DataError(f"a line must be one JSON object, was: {kind(row)}")
    return row


def kind(value: object) -> str:
    """The name of a value's type, for messages."""
    return type(value).__name__
