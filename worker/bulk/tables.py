"""Rows of tables: Parquet files, and the Arrow files of which Hugging Face data sets consist."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pyarrow
from pyarrow import ipc, parquet
from pyarrow import types as is_type

from gpner.errors import DocumentError
from worker.bulk.columns import Columns, fit, plain_type
from worker.bulk.inputs import Source, open_file
from worker.bulk.rows import Problem
from worker.bulk.texts import Progress, Record, Records, repeated

# Rows that are decoded at once. Few: texts of a megabyte that stand there often are small in the file, and nothing
# tells how large they become.
BATCH_ROWS = 64
# What is decoded at once, if the file tells its size, and what becomes Python's values at once.
BATCH_BYTES = 1 << 23
READ_BYTES = 1 << 20


def read_parquet(source: Source, skip: int, progress: Progress, columns: Columns) -> Records:
    """Rows of a Parquet file, of which only the columns asked for are read.

    Args:
        source: The file.
        skip: So many rows are left out; whole groups of them are not even read.
        progress: Is kept up to date.
        columns: Those asked for. Kept values come in their types, or as the error that one cannot.

    Raises:
        ValueError: If there is no column for the text, or one of those asked for is there twice.
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
                yield from _records(source, iter([batch.select(wanted)]), first, skip, columns)
            first += batch.num_rows
            progress.bytes = file.tell()


def _wanted(schema: pyarrow.Schema, columns: Columns) -> list[str]:
    if columns.text not in schema.names:
        raise ValueError(f"it must have a column {columns.text}, has {', '.join(schema.names)}")
    for name in repeated(schema.names):
        if name in columns.names:
            raise ValueError(f"its columns must have different names, two are called {name}")
    return [name for name in columns.names if name in schema.names]


def _records(
    source: Source, batches: Iterator[pyarrow.RecordBatch], first: int, skip: int, columns: Columns
) -> Iterator[Record | Problem]:
    for batch in batches:
        start = max(0, skip - first)
        for part in _slices(batch.slice(start)):
            names = part.schema.names
            values = [_values(name, part.column(name), columns.types.get(name)) for name in names]
            for row, cells in enumerate(zip(*values, strict=True), first + start):
                yield _record(source, row, names, cells)
            start += part.num_rows
        first += batch.num_rows


def _slices(batch: pyarrow.RecordBatch) -> Iterator[pyarrow.RecordBatch]:
    """Parts of a batch, of about so many bytes each as may become Python's values at once."""
    for start in range(0, batch.num_rows, BATCH_ROWS):
        part = batch.slice(start, BATCH_ROWS)
        decoded = {name: _decoded(part.column(name)) for name in part.schema.names}
        part = pyarrow.RecordBatch.from_pydict(decoded)
        rows = max(1, BATCH_BYTES * part.num_rows // max(1, part.nbytes))
        yield from (part.slice(first, rows) for first in range(0, part.num_rows, rows))


def _decoded(column: pyarrow.Array) -> pyarrow.Array:
    return column.dictionary_decode() if is_type.is_dictionary(column.type) else column


def _record(source: Source, row: int, names: Sequence[str], cells: Sequence[Any]) -> Record | Problem:
    for name, cell in zip(names, cells, strict=True):
        if isinstance(cell, ValueError):
            return Problem(None, source.name, row, "BrokenRow", f"column {name} must be readable, was not: {cell}")
    return Record(row, dict(zip(names, cells, strict=True)), source.name, typed=True)


def _values(name: str, column: pyarrow.Array, kind: pyarrow.DataType | None) -> list[Any]:
    """Python values, in a type if there is one; an error in the place of one that cannot be read, or is of no use."""
    values = _python_values(column)
    is_text = is_type.is_string(column.type) or is_type.is_large_string(column.type)
    if kind is None or (plain_type(column.type) == kind and (is_text or not is_type.is_string(kind))):
        return values
    return [value if isinstance(value, ValueError) else _fitted(name, value, kind) for value in values]


def _fitted(name: str, value: Any, kind: pyarrow.DataType) -> Any:
    try:
        return fit(name, value, kind)
    except DocumentError as error:
        return error


def _python_values(column: pyarrow.Array) -> list[Any]:
    if is_type.is_temporal(column.type) or is_type.is_decimal(column.type):
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
