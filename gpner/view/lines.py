"""JSON lines, plain or compressed, as a stream; what cannot be read becomes a problem with its line."""

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from gpner.errors import ConfigError, DataError
from gpner.formats.lines import parse_object
from gpner.view.problems import Problems


def read_objects(file: Path, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file, each with the number of its line, counted from 1; blank lines are skipped.

    Args:
        file: The file; its ending tells the compression.
        problems: Where lines go that hold no object, and the end of a file that is damaged.
    """
    number = 0
    try:
        with _open(file) as stream:
            for number, line in enumerate(stream, 1):
                row = None
                with problems.of(file, number):
                    row = _parse(line)
                if row is not None:
                    yield number, row
    except (OSError, EOFError, zlib.error) as error:
        problems.add(file, number + 1 if number else 0, f"must be a readable file of results, was not: {error}")


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        return parse_object(line.decode()) if line.strip() else None
    except UnicodeDecodeError as error:
        raise DataError(f"a line must be UTF-8, was not at byte {error.start}") from None


def _open(file: Path) -> BinaryIO:
    if file.suffix == ".gz":
        return cast(BinaryIO, gzip.open(file))
    if file.suffix == ".zst":
        return cast(BinaryIO, io.BufferedReader(import_pyarrow(file).input_stream(str(file), compression="zstd")))
    return file.open("rb")


def import_pyarrow(file: Path) -> Any:
    """Import what reads Parquet and Zstandard.

    Raises:
        ConfigError: If it is not installed.
    """
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise ConfigError(
            f"{file} can be read only with the package pyarrow, it is not installed; run `pip install 'gpner[bulk]'`"
        ) from None
    return pyarrow
