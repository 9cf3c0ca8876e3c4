"""Which columns of the input are used, and the types that kept ones have in Parquet shards.

Those types are found once, over all tables of the input, and hold for all of a job. They are few and wide, so that
files that differ harmlessly fit one another, later ones too: bool, int64, uint64, double, string, and lists and
structs of these. Whatever has no like among them is text.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow
import pydantic_core
from pyarrow import ipc, parquet
from pyarrow import types as is_type

from gpner.errors import ConfigError, DocumentError
from worker.bulk.inputs import Source, open_file, reaching
from worker.bulk.texts import column_names, repeated
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


def check_columns(source: Source, text: str, keep: Sequence[str]) -> None:
    """Find a wrong name of a column before millions of rows fail for it, if the format of the source names columns.

    Raises:
        ConfigError: If the source has no such column, or two of one name.
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
    for name in repeated(columns):
        raise ConfigError(f"columns must have different names, {source.name} has two called {name}; rename one")
    for flag, names in (("--text-field", [text]), ("--keep", keep)):
        for name in names:
            if name not in columns:
                close = difflib.get_close_matches(name, columns, n=1)
                hint = f"; did you mean {close[0]}?" if close else ""
                raise ConfigError(
                    f"{flag} must name a column of {source.name}, which has {', '.join(columns)}, was: {name}{hint}"
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
    with reaching(source.name), open_file(source.name) as file:
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
        return _text(value)
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


def _text(value: Any) -> str:
    plain = pydantic_core.to_jsonable_python(value, bytes_mode="base64", fallback=str)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
