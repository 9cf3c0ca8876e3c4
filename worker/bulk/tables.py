"""Which columns of the input are used, their types in Parquet shards, and the rows of tables.

Tables are Parquet files, and the Arrow files of which Hugging Face data sets consist. The types of kept columns are
found once, over all tables of the input, and hold for all of a job. They are few and wide, so that files that differ
harmlessly fit one another, later ones too: bool, int64, uint64, double, string, and lists and structs of these.
Whatever has no like among them is text.
"""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pyarrow
import pydantic_core
from pyarrow import ipc, parquet
from pyarrow import types as is_type

from gpner.errors import ConfigError, DocumentError
from worker.bulk.inputs import Source
from worker.bulk.rows import Problem
from worker.bulk.texts import Progress, Record, Records, check_names, column_names, listed
from worker.protocol import shorten

TABLES = ("parquet", "arrow")
LISTS = (
    is_type.is_list, is_type.is_large_list, is_type.is_fixed_size_list, is_type.is_list_view, is_type.is_large_list_view
)  # fmt: skip
ENCODED = (is_type.is_dictionary, is_type.is_run_end_encoded)
# JSON has them as strings.
AS_TEXT = (
    is_type.is_string, is_type.is_large_string, is_type.is_string_view, is_type.is_binary, is_type.is_large_binary,
    is_type.is_fixed_size_binary, is_type.is_binary_view, is_type.is_temporal, is_type.is_decimal,
)  # fmt: skip
SCALARS = {str(kind): kind for kind in (
    pyarrow.bool_(), pyarrow.int64(), pyarrow.uint64(), pyarrow.float64(), pyarrow.string(),
)}  # fmt: skip
# What a table may raise that cannot be read.
UNREADABLE = (OSError, EOFError, ValueError, pyarrow.ArrowException)
# Rows that are decoded at once. Few: texts of a megabyte that stand there often are small in the file, and nothing
# tells how large they become.
BATCH_ROWS = 64
# What is decoded at once, if the file tells its size, and what becomes Python's values at once.
BATCH_BYTES = 1 << 23
READ_BYTES = 1 << 20

Types = Mapping[str, pyarrow.DataType]


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of the input are used. `types` are those of kept columns; without a type any value is kept."""

    text: str
    id: str
    keep: Sequence[str] = ()
    types: Types = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """All of them, each once; the text is the first."""
        return list(dict.fromkeys((self.text, self.id, *self.keep)))


def check_columns(source: Source, wanted: Mapping[str, Sequence[str]]) -> None:
    """Find a wrong name of a column before millions of rows fail for it, if the format of the source names columns.

    Args:
        source: The file.
        wanted: The columns that must be there, by the flag that names them.

    Raises:
        ConfigError: If the source has no such column, or two of that name.
    """
    try:
        if source.kind in TABLES:
            columns = list(schema_of(source).names)
        elif source.kind in ("csv", "tsv"):
            columns = list(column_names(source))
        else:
            return
    except UNREADABLE:
        return  # this source is broken; that is a failure of its own, and the next may be whole
    if not columns:
        return  # an empty file has no first line
    for flag, names in wanted.items():
        for name in names:
            if columns.count(name) > 1:
                raise ConfigError(f"columns must have different names, {source.name} has two called {name}; rename one")
            if name not in columns:
                close = difflib.get_close_matches(name, columns, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ConfigError(
                    f"{flag} must name a column of {source.name}, which has {listed(columns)}, was: {name}{hint}"
                )


def find_types(sources: Sequence[Source], keep: Sequence[str]) -> dict[str, pyarrow.DataType]:
    """The types of kept columns: the narrowest that hold what every table has; string where there is no table."""
    types = dict.fromkeys(keep, pyarrow.null())
    for source in sources:
        if keep and source.kind in TABLES:
            try:
                schema = schema_of(source)
            except UNREADABLE:
                continue  # it will be a failure of its own
            for column in schema:
                if column.name in types:
                    types[column.name] = _common_type(types[column.name], plain_type(column.type))
    return {name: _settled(kind) for name, kind in types.items()}


def schema_of(source: Source) -> pyarrow.Schema:
    """The columns of a table and their types.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no such file.
    """
    with source.file.open() as file:
        return parquet.read_schema(file) if source.kind == "parquet" else ipc.open_stream(file).schema


def plain_type(kind: pyarrow.DataType) -> pyarrow.DataType:
    """The widest type of the same sort that both JSON and Parquet have, string if there is none; null stays null."""
    return _plain_type(kind) or pyarrow.string()


def _plain_type(kind: pyarrow.DataType) -> pyarrow.DataType | None:
    if any(test(kind) for test in ENCODED):
        return _plain_type(kind.value_type)
    if any(test(kind) for test in LISTS):
        part = _plain_type(kind.value_type)
        return part and pyarrow.list_(part)
    if is_type.is_struct(kind):
        parts = {field.name: _plain_type(field.type) for field in kind}
        return pyarrow.struct(parts) if parts and all(parts.values()) and len(parts) == kind.num_fields else None
    if any(test(kind) for test in AS_TEXT):
        return pyarrow.string()
    if is_type.is_integer(kind):
        return pyarrow.uint64() if is_type.is_uint64(kind) else pyarrow.int64()
    if is_type.is_floating(kind):
        return pyarrow.float64()
    return kind if is_type.is_boolean(kind) or is_type.is_null(kind) else None


def _common_type(one: pyarrow.DataType, other: pyarrow.DataType) -> pyarrow.DataType:
    try:
        schemas = [pyarrow.schema([("column", kind)]) for kind in (one, other)]
        return pyarrow.unify_schemas(schemas, promote_options="permissive").field("column").type
    except (pyarrow.ArrowTypeError, pyarrow.ArrowInvalid):
        return pyarrow.string()


def _settled(kind: pyarrow.DataType) -> pyarrow.DataType:
    """A type for columns in which there was nothing: string."""
    return types_from_json(types_to_json({"": kind}))[""]


def types_to_json(types: Types) -> dict[str, Any]:
    """Types for JSON: a scalar by its name, a list as a list of its one type, a struct as an object."""
    return {name: _to_json(kind) for name, kind in types.items()}


def types_from_json(types: Mapping[str, Any]) -> dict[str, pyarrow.DataType]:
    """Read them back; what is no type is string."""
    return {name: _from_json(kind) for name, kind in types.items()}


def _to_json(kind: pyarrow.DataType) -> Any:
    if is_type.is_list(kind):
        return [_to_json(kind.value_type)]
    if is_type.is_struct(kind):
        return {field.name: _to_json(field.type) for field in kind}
    return str(kind)


def _from_json(kind: Any) -> pyarrow.DataType:
    if isinstance(kind, list):
        return pyarrow.list_(_from_json(kind[0]))
    if isinstance(kind, dict):
        return pyarrow.struct(types_from_json(kind))
    return SCALARS.get(kind, pyarrow.string())


def fit(name: str, value: Any, kind: pyarrow.DataType) -> Any:
    """A kept value as its column in a Parquet file can hold it, with nothing lost.

    Raises:
        DocumentError: If it cannot.
    """
    try:
        return _fit(value, kind)
    except (ValueError, TypeError, OverflowError, pyarrow.ArrowException):
        raise DocumentError(f"column {name} must be {kind} in all of this job, was: {shorten(value)}") from None


def _fit(value: Any, kind: pyarrow.DataType) -> Any:
    if value is None:
        return None
    if is_type.is_string(kind):
        return as_text(value)
    if is_type.is_list(kind):
        if not isinstance(value, list):
            raise TypeError("no list")
        return [_fit(part, kind.value_type) for part in value]
    if is_type.is_struct(kind):
        if not isinstance(value, dict) or value.keys() - {field.name for field in kind}:
            raise TypeError("no such object")
        return {field.name: _fit(value.get(field.name), field.type) for field in kind}
    fitted = pyarrow.scalar(value, type=kind).as_py()
    if isinstance(value, bool) != is_type.is_boolean(kind) or (fitted != value and value == value):  # not so: NaN
        raise ValueError("another value")
    return fitted


def as_text(value: Any) -> str:
    """Any value as a string: bytes in URL-safe base64, what is no string in JSON either as JSON."""
    plain = pydantic_core.to_jsonable_python(value, bytes_mode="base64", fallback=str)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


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
    with source.file.open() as file, parquet.ParquetFile(file, pre_buffer=False, buffer_size=READ_BYTES) as table:
        wanted = _wanted(table.schema_arrow, columns)
        size, rows = source.size, table.metadata.num_rows
        first = 0
        for group in range(table.num_row_groups):
            about = table.metadata.row_group(group)
            if first + about.num_rows > skip:
                each = max(1, about.total_byte_size // max(1, about.num_rows))
                most = max(1, min(BATCH_ROWS, BATCH_BYTES // each))
                batches = table.iter_batches(most, row_groups=[group], columns=wanted, use_threads=False)
                for record in _records(source, batches, first, skip, columns):
                    progress.bytes = size * ((record.row or 0) + 1) // rows
                    yield record
            first += about.num_rows


def read_arrow(source: Source, skip: int, progress: Progress, columns: Columns) -> Records:
    """Rows of an Arrow file in stream format, as `read_parquet` does."""
    with closing(source.file.open()) as file, ipc.open_stream(file) as stream:
        wanted = _wanted(stream.schema, columns)
        first = 0
        for batch in stream:
            if first + batch.num_rows > skip:
                yield from _records(source, iter([batch.select(wanted)]), first, skip, columns)
            first += batch.num_rows
            progress.bytes = file.tell()


def _wanted(schema: pyarrow.Schema, columns: Columns) -> list[str]:
    check_names(schema.names, columns.names)
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
    kind = column.type
    if is_type.is_decimal(kind) or (is_type.is_temporal(kind) and not is_type.is_interval(kind)):
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
