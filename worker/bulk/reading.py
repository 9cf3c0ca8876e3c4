"""Reads sources from any position on: rows become documents or problems, in blocks that no shard's end runs through."""

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pyarrow
import pydantic_core

from gpner.errors import DocumentError
from worker.bulk.inputs import Source
from worker.bulk.rows import Block, Item, Position, Problem, Row
from worker.bulk.seen import SeenIds
from worker.bulk.tables import plain_type, read_arrow, read_parquet, schema_of
from worker.bulk.texts import Progress, Record, Records, column_names, read_csv, read_jsonl, read_texts
from worker.protocol import Document, Keys, shorten

# A block is what one step of the job carries: enough that steps cost nothing, little enough for the memory.
BLOCK_ITEMS = 256
BLOCK_CHARACTERS = 250_000
TABLES = ("parquet", "arrow")
# A place is one number: that of the part, and in the lower bits that of the row; of a text, which has none, the file's.
ROW_BITS = 40
NO_KEYS = Keys("")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of the input are used. `types` are those of kept columns; without a type any value is kept."""

    text: str
    id: str
    keep: Sequence[str] = ()
    types: dict[str, pyarrow.DataType] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """A source from one of its items on; of a source that had ended and then grew, the rest is a part of its own."""

    source: Source
    first: int = 0


class Reading:
    """The input of one run.

    Args:
        parts: What to read, in order.
        columns: What to take.
        seen: Where ids are noted.
        shard_items: So many items make a shard.
        max_document_characters: Longer texts are problems.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        columns: Columns,
        seen: SeenIds,
        *,
        shard_items: int,
        max_document_characters: int,
    ) -> None:
        self._parts = parts
        self._columns = columns
        self._seen = seen
        self._shard_items = shard_items
        self._max_document_characters = max_document_characters
        self._bytes_before = 0
        self._progress = Progress()

    def blocks(self, start: Position, most: int | None = None) -> Iterator[Block]:
        """Everything from the beginning of a shard on.

        Args:
            start: Where the shard begins.
            most: At most so many items.
        """
        self._bytes_before = sum(part.source.size for part in self._parts[: start.source])
        held: list[Record | Problem] = []
        places: list[int] = []
        characters = in_shard = total = 0
        ended: dict[int, int] = {}
        end = start
        with closing(self._records(start, ended)) as records:
            for record, end in records:
                held.append(record)
                if isinstance(record, Record):
                    places.append(self._place(record, end))
                in_shard += 1
                total += 1
                characters += self._characters(record)
                full = in_shard == self._shard_items
                if full or total == most or len(held) == BLOCK_ITEMS or characters >= BLOCK_CHARACTERS:
                    yield self._block(held, places, end, ended, full)
                    held, places, characters = [], [], 0
                    in_shard = 0 if full else in_shard
                if total == most:
                    return
        if held:
            yield self._block(held, places, end, ended, full=False)

    def again(self, wanted: Mapping[str, Set[int]], end: Position) -> Iterator[Block]:
        """Single rows again, by source and row, as shards of their own; those that are not there any more are left out.

        Args:
            wanted: The rows of each source.
            end: How far the input is read; by these it is read no further.
        """
        held: list[Item] = []
        characters = in_shard = 0
        for item in self._rows(wanted):
            held.append(item)
            in_shard += 1
            characters += len(item.text) if isinstance(item, Row) else 0
            full = in_shard == self._shard_items
            if full or len(held) == BLOCK_ITEMS or characters >= BLOCK_CHARACTERS:
                yield Block(held, end, {}, 0, full)
                held, characters = [], 0
                in_shard = 0 if full else in_shard
        if held:
            yield Block(held, end, {}, 0, full=False)

    def _rows(self, wanted: Mapping[str, Set[int]]) -> Iterator[Item]:
        for source in {part.source.name: part.source for part in self._parts}.values():
            if any(name in wanted for name in source.names):
                with closing(self._read(source, 0)) as records:
                    for record in records:
                        if record.row in wanted.get(record.source, ()):
                            yield self._item(record, None)

    def _records(self, start: Position, ended: dict[int, int]) -> Any:
        for number in range(start.source, len(self._parts)):
            part = self._parts[number]
            items = max(part.first, start.items if number == start.source else 0)
            with closing(self._read(part.source, items)) as records:
                for record in records:
                    if record.row is None:  # the source can be read no further
                        ended[number] = items
                        yield record, Position(number + 1)
                        break
                    items += 1
                    yield record, Position(number, items)
            ended[number] = items
            self._bytes_before += part.source.size
            self._progress = Progress()

    def _read(self, source: Source, skip: int) -> Records:
        """The records of a source; where it cannot be read any further a problem is the last."""
        self._progress = Progress()
        items = skip
        try:
            with closing(self._open(source, skip, self._progress)) as records:
                for record in records:
                    items += 1
                    yield record
        except (OSError, EOFError, ValueError, pyarrow.ArrowException) as error:
            what = f"from item {items} on, counted from 0" if items else "at all"
            message = f"it must be readable as {source.kind}, was not {what}: {error}"
            yield Problem(None, source.name, None, "BrokenSource", message)

    def _open(self, source: Source, skip: int, progress: Progress) -> Records:
        if source.kind in TABLES:
            read = read_parquet if source.kind == "parquet" else read_arrow
            names = dict.fromkeys((self._columns.text, self._columns.id, *self._columns.keep))
            return read(source, skip, progress, {**names, **self._columns.types})
        if source.kind == "texts":
            return read_texts(source, skip, progress, id_column=self._columns.id, text_column=self._columns.text)
        return (read_jsonl if source.kind == "jsonl" else read_csv)(source, skip, progress)

    def _characters(self, record: Record | Problem) -> int:
        text = None if isinstance(record, Problem) else record.values.get(self._columns.text)
        return len(text) if isinstance(text, str) else 0

    def _place(self, record: Record, end: Position) -> int:
        row = end.items - 1 if self._parts[end.source].source.kind == "texts" else record.row
        return end.source << ROW_BITS | row

    def _words(self, place: int) -> str:
        source = self._parts[place >> ROW_BITS].source
        row = place & (1 << ROW_BITS) - 1
        return f"{source.files[row][0]}:0" if source.kind == "texts" else f"{source.name}:{row}"

    def _block(
        self,
        held: Sequence[Record | Problem],
        places: Sequence[int],
        end: Position,
        ended: dict[int, int],
        full: bool,
    ) -> Block:
        ids = [self._id(record) for record in held if isinstance(record, Record)]
        firsts = iter(self._seen.add(ids, places))
        items = [record if isinstance(record, Problem) else self._item(record, next(firsts)) for record in held]
        block = Block(items, end, dict(ended), self._bytes_before + self._progress.bytes, full)
        ended.clear()
        return block

    def _id(self, record: Record) -> str:
        name = record.values.get(self._columns.id)
        if name is None or name == "":
            return f"{record.source}:{record.row}"
        return name if isinstance(name, str) else pydantic_core.to_json(name, fallback=str).decode()

    def _item(self, record: Record | Problem, first: int | None) -> Item:
        """Make a document of a row, or say what is wrong with it."""
        if isinstance(record, Problem):
            return record
        name = self._id(record)
        text = record.values.get(self._columns.text)
        if first is not None:
            problem = "DuplicateId", f"id must be unique, {shorten(name)} stands at {self._words(first)} already"
        elif text is None:
            problem = "MissingText", f"a row must have a text in {self._columns.text}, had none"
        elif not isinstance(text, str):
            problem = "MissingText", f"the text in {self._columns.text} must be a string, was: {shorten(text)}"
        elif not text:
            problem = "EmptyText", "a text must have at least one character, had none"
        else:
            try:
                # The worker's own rule, in its words.
                Document.model_construct(id="", text=text).check(NO_KEYS, self._max_document_characters)
                return Row(name, text, record.source, record.row, self._kept(record))
            except DocumentError as error:
                problem = type(error).__name__, str(error)
        return Problem(name, record.source, record.row, *problem)

    def _kept(self, record: Record) -> dict[str, Any]:
        kept = {name: record.values.get(name) for name in self._columns.keep}
        for name, kind in self._columns.types.items():
            if not record.typed:
                kept[name] = _of_type(name, kept[name], kind)
        return kept


def kept_types(source: Source, keep: Sequence[str]) -> dict[str, pyarrow.DataType]:
    """In which types a Parquet file holds kept columns: those of the first source if it is a table, else strings."""
    if not keep:
        return {}
    try:
        schema = schema_of(source) if source.kind in TABLES else {}
    except (OSError, ValueError, pyarrow.ArrowException):
        schema = {}  # a broken source is a failure of its own, and the others may be whole
    return {name: plain_type(schema.get(name, pyarrow.string())) for name in keep}


def known_columns(source: Source) -> Sequence[str] | None:
    """The columns of a source whose format names them; None if it does not."""
    if source.kind in TABLES:
        return list(schema_of(source))
    return column_names(source) if source.kind in ("csv", "tsv") else None


def _of_type(name: str, value: Any, kind: pyarrow.DataType) -> Any:
    """A kept value as its column in a Parquet file can hold it.

    Raises:
        DocumentError: If it cannot.
    """
    if value is None or (isinstance(value, str) and pyarrow.types.is_string(kind)):
        return value
    if pyarrow.types.is_string(kind):
        return json.dumps(value, ensure_ascii=False, default=str)
    try:
        return pyarrow.scalar(value, type=kind).as_py()
    except (ValueError, TypeError, OverflowError, pyarrow.ArrowException):
        raise DocumentError(f"column {name} must be {kind} as in the first source, was: {shorten(value)}") from None
