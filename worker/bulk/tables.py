"""Rows of tables: Parquet files, and the Arrow files of which Hugging Face data sets consist."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import pyarrow
import pydantic_core
from pyarrow import ipc, parquet

from worker.bulk.inputs import Source, open_file
from worker.bulk.rows import Problem
from worker.bulk.texts import Progress, Record, Records

# Rows that are decoded at once, unless those of a group are so large that fewer fill so many bytes.
BATCH_ROWS = 1024
BATCH_BYTES = 1 << 23
READ_BYTES = 1 << 20
Columns = Mapping[str, pyarrow.DataType | None]


def read_parquet(source: Source, skip: int, progress: Progress, columns: Columns) -> Records:
    """Rows of a Parquet file, of which only the columns asked for are read.

    Args:
        source: The file.
        skip: So many rows are left out; whole groups of them are not even read.
        progress: Is kept up to date.
        columns: Those asked for, with the types that they must have; None is any. The first of them must be there.

    Raises:
        ValueError: If the first is missing, or one has another type.
    """
    with open_file(source.name) as file, parquet.ParquetFile(file, pre_buffer=False, buffer_size=READ_BYTES) as table:
        wanted = _wanted(table.schema_arrow, columns)
        first = 0
        for group in range(table.num_row_groups):
            about = table.metadata.row_group(group)
            if first + about.num_rows > skip:
                each = max(1, about.total_byte_size // max(1, about.num_rows))
                size = max(1, min(BATCH_ROWS, BATCH_BYTES // each))
                batches = table.iter_batches(size, row_groups=[group], columns=wanted, use_threads=False)
                for record in _records(source, batches, first, skip, columns):
                    progress.bytes = source.size * ((record.row or 0) + 1) // table.metadata.num_rows
                    yield record
            first += about.num_rows


def read_arrow(source: Source, skip: int, progress: Progress, columns: Columns) -> Records:
    """Rows of an Arrow file in stream format, as `read_parquet` does."""
    with closing(open_file(source.name)) as file, ipc.open_stream(file) as stream:
        wanted = _wanted(stream.schema, columns)
        first = 0
        for batch in stream:
            if first + batch.num_rows > skip:
                slices = (batch.slice(start, BATCH_ROWS) for start in range(0, batch.num_rows, BATCH_ROWS))
                yield from _records(source, (part.select(wanted) for part in slices), first, skip, columns)
            first += batch.num_rows
            progress.bytes = file.tell()


def schema_of(source: Source) -> dict[str, pyarrow.DataType]:
    """The columns of a table and their types.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no such file.
    """
    with open_file(source.name) as file:
        schema = parquet.read_schema(file) if source.kind == "parquet" else ipc.open_stream(file).schema
        return {field.name: field.type for field in schema}


def plain_type(kind: pyarrow.DataType) -> pyarrow.DataType:
    """The type in which a kept column is written: its own where JSON has the like of it, otherwise string."""
    if pyarrow.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        return pyarrow.list_(plain_type(kind.value_type))
    if pyarrow.types.is_struct(kind):
        return pyarrow.struct([(field.name, plain_type(field.type)) for field in kind])
    simple = any(test(kind) for test in (pyarrow.types.is_boolean, pyarrow.types.is_integer, pyarrow.types.is_floating))
    return kind if simple else pyarrow.string()


def _wanted(schema: pyarrow.Schema, columns: Columns) -> list[str]:
    required = next(iter(columns))
    if required not in schema.names:
        raise ValueError(f"it must have a column {required}, has {', '.join(schema.names)}")
    for name, kind in columns.items():
        came = plain_type(schema.field(name).type) if name in schema.names else None
        if came is not None and kind is not None and came != kind:
            raise ValueError(f"column {name} must be {kind} as in the first source, was: {came}")
    return [name for name in columns if name in schema.names]


def _records(
    source: Source, batches: Iterator[pyarrow.RecordBatch], first: int, skip: int, columns: Columns
) -> Iterator[Record | Problem]:
    for batch in batches:
        start = max(0, skip - first)
        if start < batch.num_rows:
            names = batch.schema.names
            values = [_values(batch.column(name).slice(start), columns[name]) for name in names]
            for row, cells in enumerate(zip(*values, strict=True), first + start):
                yield _record(source, row, names, cells)
        first += batch.num_rows


def _record(source: Source, row: int, names: Sequence[str], cells: Sequence[Any]) -> Record | Problem:
    for name, cell in zip(names, cells, strict=True):
        if isinstance(cell, ValueError):
            return Problem(None, source.name, row, "BrokenRow", f"column {name} must be readable, was not: {cell}")
    return Record(row, dict(zip(names, cells, strict=True)), source.name, typed=True)


def _values(column: pyarrow.Array, kind: pyarrow.DataType | None) -> list[Any]:
    """Python values, as strings where that is what is wanted; an error in the place of one that cannot be read."""
    values = _python_values(column)
    if kind is None or not pyarrow.types.is_string(kind) or _is_text(column.type):
        return values
    return [value if value is None or isinstance(value, ValueError) else _text(value) for value in values]


def _python_values(column: pyarrow.Array) -> list[Any]:
    if pyarrow.types.is_temporal(column.type) or pyarrow.types.is_decimal(column.type):
        column = column.cast(pyarrow.string())
    try:
        return list(column.to_pylist())
    except (ValueError, OverflowError):
        return [_value(cell) for cell in column]


def _value(cell: pyarrow.Scalar) -> Any:
    try:
        return cell.as_py()
    except (ValueError, OverflowError) as error:
        return ValueError(str(error))


def _is_text(kind: pyarrow.DataType) -> bool:
    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else pydantic_core.to_json(value, bytes_mode="base64", fallback=str).decode()
