"""Results in batches, whatever their format: column by column, as they are counted."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpner.errors import DataError
from gpner.formats.lines import import_pyarrow
from gpner.report.page import shortened
from gpner.view.problems import Problems, read_objects
from gpner.view.sample import Sample

# What a batch holds, in JSON lines a few entities more.
BATCH_ENTITIES = 50_000
BATCH_DOCUMENTS = 1_000
# With their texts, of which nothing tells how large they are before they are decoded.
BATCH_TEXTS = 32
READ_BYTES = 1 << 20
# A score that was no number is null.
SCORE_TYPES = {float, int, type(None)}


@dataclass(slots=True)
class Batch:
    """Results of some documents; entry i of each list belongs to entity i. Names are shortened."""

    documents: int = 0
    tokens: int = 0
    windows: int = 0
    windowed: int = 0
    models: set[tuple[str, str]] = field(default_factory=set)
    labels: list[str] = field(default_factory=list)
    surfaces: list[str] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)


def read_batches(file: Path, problems: Problems, sample: Sample | None) -> Iterator[Batch]:
    """Read a file of results in memory that does not grow with it.

    Args:
        file: JSON lines, plain or compressed, or Parquet; its ending tells which.
        problems: Where what holds no result goes.
        sample: What documents with a text are offered to, if any are needed.
    """
    if file.suffix == ".parquet":
        yield from _read_parquet(file, problems, sample)
    else:
        yield from _read_lines(file, problems, sample)


def _read_lines(file: Path, problems: Problems, sample: Sample | None) -> Iterator[Batch]:
    batch = Batch()
    for number, row in read_objects(file, problems):
        with problems.of(file, number):
            _add_row(batch, row)
            if sample is not None and "text" in row:
                sample.offer(row)
        if len(batch.labels) >= BATCH_ENTITIES or batch.documents >= BATCH_DOCUMENTS:
            yield batch
            batch = Batch()
    yield batch


def _add_row(batch: Batch, row: dict[str, Any]) -> None:
    entities = row.get("entities")
    tokens, windows = row.get("tokens", 0), row.get("windows", 0)
    if not isinstance(entities, list):
        raise DataError(f"a result must have a list of entities, had: {type(entities).__name__}")
    if not (isinstance(tokens, int) and isinstance(windows, int)):
        raise DataError("tokens and windows of a result must be whole numbers, were not")
    try:
        columns = [[entity[name] for entity in entities] for name in ("label", "text", "score")]
    except (KeyError, TypeError):
        raise DataError("an entity must be an object with label, text and score, one was not") from None
    _extend(batch, *columns)
    batch.documents += 1
    batch.tokens += tokens
    batch.windows += windows
    batch.windowed += windows > 1
    batch.models.add((str(row.get("model", "")), str(row.get("revision", ""))))


def _extend(batch: Batch, labels: list[Any], surfaces: list[Any], scores: list[Any]) -> None:
    """Add entities.

    Raises:
        DataError: If one has another type than it must have; none is added.
    """
    if not ({*map(type, labels), *map(type, surfaces)} <= {str} and {*map(type, scores)} <= SCORE_TYPES):
        raise DataError("label and text of an entity must be strings, its score a number, one was of another type")
    batch.labels += map(shortened, labels)
    batch.surfaces += map(shortened, surfaces)
    batch.scores += scores


def _read_parquet(file: Path, problems: Problems, sample: Sample | None) -> Iterator[Batch]:
    pyarrow = import_pyarrow(file)
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file, pre_buffer=False, buffer_size=READ_BYTES) as table:
            held = _checked_columns(table.schema_arrow)
            texts = ["id", "text"] if sample is not None and "text" in table.schema_arrow.names else []
            size = BATCH_TEXTS if texts else BATCH_DOCUMENTS
            for rows in table.iter_batches(size, columns=[*held, *texts], use_threads=False):
                yield from _of_rows(rows)
                if sample is not None and texts:
                    _offer_rows(rows, sample, file, problems)
    except (OSError, UnicodeDecodeError, pyarrow.ArrowException, DataError) as error:
        problems.add(file, 0, f"must be a readable Parquet file of results, was not: {error}")


def _checked_columns(schema: Any) -> list[str]:
    """The columns of a result that a Parquet file has.

    Raises:
        DataError: If it has no entities, or they lack something that is counted.
    """
    entity = getattr(schema.field("entities").type, "value_type", None) if "entities" in schema.names else None
    if not {"label", "text", "score"} <= {field.name for field in getattr(entity, "fields", ())}:
        raise DataError(f"it must have a column entities of structs with label, text and score; it has {schema.names}")
    return [name for name in ("entities", "tokens", "windows", "model", "revision") if name in schema.names]


def _of_rows(rows: Any) -> Iterator[Batch]:
    from pyarrow import Table, compute

    columns = dict(zip(rows.schema.names, rows.columns, strict=True))
    entities = columns["entities"].flatten()
    batch = Batch(documents=rows.num_rows)
    if "tokens" in columns:
        batch.tokens = compute.sum(columns["tokens"]).as_py() or 0
    if "windows" in columns:
        batch.windows = compute.sum(columns["windows"]).as_py() or 0
        batch.windowed = compute.sum(compute.greater(columns["windows"], 1)).as_py() or 0
    if {"model", "revision"} <= columns.keys():
        models = Table.from_batches([rows]).group_by(["model", "revision"]).aggregate([]).to_pylist()
        batch.models = {(str(row["model"]), str(row["revision"])) for row in models}
    for start in range(0, len(entities), BATCH_ENTITIES):
        part = entities.slice(start, BATCH_ENTITIES)
        _extend(batch, *(part.field(name).to_pylist() for name in ("label", "text", "score")))
        yield batch
        batch = Batch()
    yield batch


def _offer_rows(rows: Any, sample: Sample, file: Path, problems: Problems) -> None:
    names = rows.column("id").to_pylist() if "id" in rows.schema.names else [""] * rows.num_rows
    for number, name in enumerate(names):
        # Only texts that have a chance become Python's.
        if sample.has_room_for(name):
            with problems.of(file, 0):
                sample.offer(rows.slice(number, 1).to_pylist()[0])
