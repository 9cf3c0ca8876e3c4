"""How files are written: whole or not at all, as Parquet with a typed nested list of entities, or as JSON lines."""

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import pyarrow
from pyarrow import json as arrow_json
from pyarrow import parquet

FORMATS = ("parquet", "jsonl", "jsonl.gz", "jsonl.zst")
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
    """Write a file so that after a kill, or a loss of power, it is there whole or as it was before.

    Args:
        path: The file; what is not whole yet lies beside it, under its name with `.unfinished` behind.
        write: Writes its content.
    """
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("wb") as file:
        write(file)
    sync(unfinished)
    unfinished.replace(path)
    sync(path.parent)


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Write a file of lines, as `write_whole` does."""
    write_whole(path, lambda file: file.writelines(line + b"\n" for line in lines))


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
