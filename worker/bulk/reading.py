"""Reads sources from any position on: rows become documents or problems, in blocks that no shard's end runs through."""

from bisect import bisect_left
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from gpner.errors import ConfigError, DocumentError
from worker.bulk.inputs import STANDARD_INPUT, Source
from worker.bulk.manifests import RESTORE, Span
from worker.bulk.rows import Block, Item, Position, Problem, Row
from worker.bulk.seen import SeenIds
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

Thing = TypeVar("Thing")
# A row, and how far its source is read with it.
Reached = tuple[Record | Problem, Position]
Reaching = Generator[Reached, None, None]


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

    def note(self, spans: Iterable[Span]) -> None:
        """Note ids that were read already, and make nothing else of their rows.

        Raises:
            ConfigError: If that cannot be read again.
        """
        for number, first, end in spans:
            source, first = self._parts[number].source, max(first, self._parts[number].first)
            if first >= end:
                continue
            reached = Position(number, first)
            if source.name != STANDARD_INPUT:
                with closing(self._part(number, first)) as records:
                    for run, _ in self._runs((each, self._size(each[0])) for each in islice(records, end - first)):
                        self._note(run)
                        reached = run[-1][1]
            if reached.items != end:
                raise ConfigError(
                    f"the ids of {source.name} are lost, it must be readable again up to item {end} for them, "
                    f"was up to {reached.items}; {RESTORE}"
                )

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
            if any(file.name in wanted for file in source.files):
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
            with closing(self._open(source, skip, self._progress)) as records:
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
        return f"{source.files[row].name}:0" if source.kind == "texts" else f"{source.name}:{row}"

    def _block(self, run: Sequence[Reached], end: Position, ended: Mapping[int, Position], full: bool) -> Block:
        firsts = iter(self._note(run))
        items = [record if isinstance(record, Problem) else self._item(record, next(firsts)) for record, _ in run]
        return Block(items, end, dict(ended), self._bytes_before + self._progress.bytes, full)

    def _note(self, run: Sequence[Reached]) -> list[int | None]:
        """Note the ids of rows; of each that was seen before at another place this is that place."""
        rows = [(record, reached) for record, reached in run if isinstance(record, Record)]
        return self._seen.add([self._id(record) for record, _ in rows], [self._place(*each) for each in rows])

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
