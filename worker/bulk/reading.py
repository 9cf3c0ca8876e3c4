"""Reads sources from any position on: rows become documents or problems, in blocks that no shard's end runs through.

Which ids were read already is kept on disk, so that memory stays the same at any number.
"""

import sqlite3
import threading
from bisect import bisect_left
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from gpner.errors import DocumentError
from worker.bulk.inputs import Source, reaching
from worker.bulk.rows import Block, Item, Position, Problem, Row
from worker.bulk.tables import UNREADABLE, Columns, as_text, fit, read_arrow, read_parquet
from worker.bulk.texts import Progress, Record, Records, read_csv, read_jsonl, read_texts
from worker.protocol import Document, Keys, shorten

# A block is what one step of the job carries: enough that steps cost nothing, little enough for the memory.
BLOCK_ITEMS = 256
BLOCK_CHARACTERS = 250_000
# What a row of CSV, or a text file, may have in bytes: a text of the most characters, each of four bytes, and this.
OTHER_BYTES = 1 << 20
# About what a number in a kept column takes.
NUMBER_CHARACTERS = 8
# A place is one number: that of the source's first part, and in the lower bits that of the row, or of the text's file.
ROW_BITS = 40
NO_KEYS = Keys("")
# Among a billion ids two have the same digest with a probability of 10^-11.
DIGEST_BYTES = 12
CACHE_KIBIBYTES = 65_536
# Ids fall anywhere in the table: the fewer the checkpoints, the more of them change a page together. 100 MB.
CHECKPOINT_PAGES = 25_000

Thing = TypeVar("Thing")
# A row, and how far its source is read with it.
Reached = tuple[Record | Problem, Position]
Reaching = Generator[Reached, None, None]


@dataclass(frozen=True, slots=True)
class Part:
    """A source from one of its items on; of a source that had ended and then grew, the rest is a part of its own."""

    source: Source
    first: int = 0


class SeenIds:
    """The ids of all rows that were read, each with the place that it was first read at, as a number.

    A row that is read again, after a kill, finds itself and is no duplicate. Safe for threads.

    Args:
        file: Where they are kept; None keeps them in memory, for a job that leaves nothing behind.
    """

    def __init__(self, file: Path | None) -> None:
        self._lock = threading.Lock()
        self._table = sqlite3.connect(file or ":memory:", isolation_level=None, check_same_thread=False)
        self._table.execute("PRAGMA journal_mode=WAL")
        self._table.execute("PRAGMA synchronous=FULL")
        self._table.execute(f"PRAGMA cache_size=-{CACHE_KIBIBYTES}")
        self._table.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        self._table.execute("CREATE TABLE IF NOT EXISTS seen (id BLOB PRIMARY KEY, place INTEGER) WITHOUT ROWID")
        self._table.execute("BEGIN")

    def add(self, ids: Sequence[str], places: Sequence[int]) -> list[int | None]:
        """Note ids; of each that was seen before at another place return that place, of the others None."""
        digests = [blake2b(name.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest() for name in ids]
        rows = list(zip(digests, places, strict=True))
        with self._lock:
            added = self._table.executemany("INSERT OR IGNORE INTO seen VALUES (?, ?)", rows).rowcount
            if added == len(rows):
                return [None] * len(rows)
            query = "SELECT place FROM seen WHERE id = ?"
            found = [self._table.execute(query, [digest]).fetchone()[0] for digest, _ in rows]
        return [None if first == place else first for first, place in zip(found, places, strict=True)]

    def commit(self) -> None:
        """Make all that was noted safe on the disk."""
        with self._lock:
            self._table.execute("COMMIT")
            self._table.execute("BEGIN")

    def close(self) -> None:
        """Close the file; what was noted since the last commit is forgotten."""
        self._table.close()


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
        firsts: dict[str, int] = {}
        self._firsts = [firsts.setdefault(part.source.name, number) for number, part in enumerate(parts)]
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
        ended: dict[int, Position] = {}
        with closing(self._records(start, ended)) as records:
            for run, full in self._runs((each, self._size(each[0])) for each in islice(records, most)):
                yield self._block(run, run[-1][1], ended, full)
                ended.clear()

    def rest(self, number: int, first: int, end: Position) -> Iterator[Block]:
        """What there is of a part that broke, as shards of its own.

        Args:
            number: Which part.
            first: The item from which on.
            end: How far the input is read; by these it is read no further.
        """
        self._bytes_before = 0
        with closing(self._part(number, first)) as records:
            for run, full in self._runs((each, self._size(each[0])) for each in records):
                yield self._block(run, end, {number: run[-1][1]}, full)

    def again(self, wanted: Mapping[str, Sequence[int]], end: Position) -> Iterator[Block]:
        """Single rows again, by source and row, as shards of their own; those that are not there any more are left out.

        Args:
            wanted: The rows of each source, in ascending order.
            end: How far the input is read; by these it is read no further.
        """
        items = ((item, item.size if isinstance(item, Row) else 0) for item in self._rows(wanted))
        for run, full in self._runs(items):
            yield Block(run, end, {}, 0, full, again=True)

    def _runs(self, things: Iterable[tuple[Thing, int]]) -> Iterator[tuple[list[Thing], bool]]:
        """What makes a block together, given with sizes; and whether it is the last of its shard."""
        run: list[Thing] = []
        size = in_shard = 0
        for thing, thing_size in things:
            run.append(thing)
            size += thing_size
            in_shard += 1
            full = in_shard == self._shard_items
            if full or len(run) == BLOCK_ITEMS or size >= BLOCK_CHARACTERS:
                yield run, full
                run, size = [], 0
                in_shard = 0 if full else in_shard
        if run:
            yield run, False

    def _rows(self, wanted: Mapping[str, Sequence[int]]) -> Iterator[Item]:
        for source in {part.source.name: part.source for part in self._parts}.values():
            if any(name in wanted for name in source.names):
                with closing(self._read(source, 0)) as records:
                    for record in records:
                        if record.row is not None and is_among(record.row, wanted.get(record.source, ())):
                            yield self._item(record, None)

    def _records(self, start: Position, ended: dict[int, Position]) -> Reaching:
        for number in range(start.source, len(self._parts)):
            reached = Position(number, self._parts[number].first)
            if number == start.source and start.items > reached.items:
                reached = start
            with closing(self._part(number, reached.items)) as records:
                for record, reached in records:
                    if record.row is None:  # the source can be read no further
                        ended[number] = reached
                        yield record, Position(number + 1)
                    else:
                        yield record, reached
            ended[number] = reached
            self._bytes_before += self._parts[number].source.size
            self._progress = Progress()

    def _part(self, number: int, items: int) -> Reaching:
        with closing(self._read(self._parts[number].source, items)) as records:
            for record in records:
                items += record.row is not None
                yield record, Position(number, items, self._progress.unended)

    def _read(self, source: Source, skip: int) -> Records:
        """The records of a source; where it cannot be read any further a problem is the last."""
        self._progress = Progress()
        items = skip
        try:
            with reaching(source.name), closing(self._open(source, skip, self._progress)) as records:
                for record in records:
                    items += 1
                    yield record
        except UNREADABLE as error:
            what = f"from item {items} on, counted from 0" if items else "at all"
            message = f"it must be readable as {source.kind}, was not {what}: {error}"
            yield Problem(None, source.name, None, "BrokenSource", message)

    def _open(self, source: Source, skip: int, progress: Progress) -> Records:
        names = self._columns.names
        most_bytes = 4 * self._max_document_characters + OTHER_BYTES
        match source.kind:
            case "jsonl":
                return read_jsonl(source, skip, progress, names)
            case "parquet":
                return read_parquet(source, skip, progress, self._columns)
            case "arrow":
                return read_arrow(source, skip, progress, self._columns)
            case "texts":
                return read_texts(source, skip, progress, most_bytes, self._columns.id, self._columns.text)
            case _:
                return read_csv(source, skip, progress, names, most_bytes)

    def _size(self, record: Record | Problem) -> int:
        """About how many characters are carried for a row."""
        if isinstance(record, Problem):
            return 0
        text = record.values.get(self._columns.text)
        size = len(text) if isinstance(text, str) else 0
        for name in self._columns.keep:
            size += _characters(record.values.get(name))
        return size

    def _place(self, record: Record, reached: Position) -> int:
        row = reached.items - 1 if self._parts[reached.source].source.kind == "texts" else record.row
        return self._firsts[reached.source] << ROW_BITS | row

    def _words(self, place: int) -> str:
        source = self._parts[place >> ROW_BITS].source
        row = place & (1 << ROW_BITS) - 1
        return f"{source.files[row][0]}:0" if source.kind == "texts" else f"{source.name}:{row}"

    def _block(self, run: Sequence[Reached], end: Position, ended: Mapping[int, Position], full: bool) -> Block:
        rows = [(record, reached) for record, reached in run if isinstance(record, Record)]
        ids = [self._id(record) for record, _ in rows]
        firsts = iter(self._seen.add(ids, [self._place(*each) for each in rows]))
        items = [record if isinstance(record, Problem) else self._item(record, next(firsts)) for record, _ in run]
        return Block(items, end, dict(ended), self._bytes_before + self._progress.bytes, full)

    def _id(self, record: Record) -> str:
        name = record.values.get(self._columns.id)
        if name is None or name == "" or name != name:  # that is: not a number
            return f"{record.source}:{record.row}"
        return name if isinstance(name, str) else as_text(name)

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
            was = f"{type(text).__name__} {shorten(text)}"
            problem = "MissingText", f"the text in {self._columns.text} must be a string, was: {was}"
        elif not text:
            problem = "EmptyText", "a text must have at least one character, had none"
        else:
            try:
                # The worker's own rule, in its words.
                Document.model_construct(id="", text=text).check(NO_KEYS, self._max_document_characters)
                kept = self._kept(record)
                return Row(name, text, record.source, record.row, kept, self._size(record))
            except DocumentError as error:
                problem = type(error).__name__, str(error)
        return Problem(name, record.source, record.row, *problem)

    def _kept(self, record: Record) -> dict[str, Any]:
        kept = {name: record.values.get(name) for name in self._columns.keep}
        for value in kept.values():
            if isinstance(value, DocumentError):
                raise value
        if record.typed:
            return kept
        return kept | {name: fit(name, kept[name], kind) for name, kind in self._columns.types.items()}


def is_among(row: int, rows: Sequence[int]) -> bool:
    """Whether a row is one of those, which are in ascending order."""
    index = bisect_left(rows, row)
    return index < len(rows) and rows[index] == row


def _characters(value: Any) -> int:
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, value)) + sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, (list, tuple)) else NUMBER_CHARACTERS
