"""How files are written: whole or not at all, as Parquet with a typed nested list of entities, or as JSON lines.

What a job reads again has a checksum, as somebody may have spoilt it in a way that still reads well.
"""

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple
from zlib import crc32

import pyarrow
from pyarrow import json as arrow_json
from pyarrow import parquet

FORMATS = ("parquet", "jsonl", "jsonl.gz", "jsonl.zst")
READ_BYTES = 1 << 20
COMPRESSIONS = {"jsonl.gz": "gzip", "jsonl.zst": "zstd"}
# A row group of a Parquet file holds so many rows, or as many as have so many bytes in JSON: what is decoded at once.
GROUP_ROWS = 10_000
GROUP_BYTES = 1 << 24

ENTITY = pyarrow.struct(
    [
        ("start", pyarrow.int32()),
        ("end", pyarrow.int32()),
        ("label", pyarrow.string()),
        ("text", pyarrow.string()),
        ("score", pyarrow.float64()),
    ]
)


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that after an error, a kill, or a loss of power, it is there whole or as it was before.

    Args:
        path: The file; what is not whole yet lies beside it, under its name with `.unfinished` behind.
        write: Writes its content.
    """
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            write(file)
        sync(unfinished)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync(path.parent)


class Content(NamedTuple):
    """What tells whether a file holds what was written: its bytes and their checksum."""

    size: int = 0
    checksum: int = 0

    def then(self, more: bytes) -> "Content":
        """That of a file which goes on with these bytes."""
        return Content(self.size + len(more), crc32(more, self.checksum))


def content_of(path: Path) -> Content:
    """That of a file as it is."""
    content = Content()
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            content = content.then(block)
    return content


def write_lines(path: Path, lines: Iterable[bytes]) -> Content:
    """Write a file of lines, as `write_whole` does."""
    content = Content()

    def write(file: BinaryIO) -> None:
        nonlocal content
        for line in lines:
            content = content.then(line + b"\n")
            file.write(line + b"\n")

    write_whole(path, write)
    return content


def write_object(path: Path, json_object: bytes) -> None:
    """Write an object of JSON, which gets a checksum as its first member, as `write_whole` does."""
    rest = json_object.removeprefix(b"{")
    write_whole(path, lambda file: file.write(_opening(rest) + rest))


def read_object(path: Path) -> bytes:
    """What `write_object` has written.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is another content.
    """
    content = path.read_bytes()
    rest = content[len(_opening(b"")) :]
    if content != _opening(rest) + rest:
        raise ValueError("its checksum is not that of its content")
    return content


def _opening(rest: bytes) -> bytes:
    return b'{"checksum": "%08x",\n' % crc32(rest)


def sync(path: Path) -> None:
    """Have a file or folder on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def output_schema(kept: Mapping[str, pyarrow.DataType]) -> pyarrow.Schema:
    """The columns of a Parquet shard, those that are kept of the input at the end."""
    own = {
        "id": pyarrow.string(),
        "entities": pyarrow.list_(ENTITY),
        "tokens": pyarrow.int32(),
        "windows": pyarrow.int32(),
        "model": pyarrow.string(),
        "revision": pyarrow.string(),
        "source": pyarrow.string(),
        "row": pyarrow.int64(),
    }
    return pyarrow.schema([*own.items(), *kept.items()])


def write_parquet(file: BinaryIO, lines: Iterator[bytes], schema: pyarrow.Schema) -> None:
    """Write rows, given as lines of JSON."""
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for group in _groups(lines):
            writer.write_table(_table(group, schema))


def write_jsonl(file: BinaryIO, lines: Iterator[bytes], output_format: str) -> None:
    """Write rows, given as lines of JSON, compressed as the format says."""
    if output_format in COMPRESSIONS:
        with pyarrow.CompressedOutputStream(pyarrow.PythonFile(file, "w"), COMPRESSIONS[output_format]) as stream:
            for line in lines:
                stream.write(line + b"\n")
    else:
        file.writelines(line + b"\n" for line in lines)


def _groups(lines: Iterator[bytes]) -> Iterator[list[bytes]]:
    group: list[bytes] = []
    size = 0
    for line in lines:
        if group and (len(group) == GROUP_ROWS or size + len(line) > GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(line)
        size += len(line)
    if group:
        yield group


def _table(lines: list[bytes], schema: pyarrow.Schema) -> pyarrow.Table:
    # A block must hold whole lines. One thread, so that the same lines always give the same chunks.
    block = 2 * max(map(len, lines)) + (1 << 20)
    table = arrow_json.read_json(
        io.BytesIO(b"\n".join(lines) + b"\n"),
        read_options=arrow_json.ReadOptions(use_threads=False, block_size=block),
        parse_options=arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error"),
    )
    return table.combine_chunks()
