"""What goes through a bulk job: rows of the input, what was wrong with some, what was found in the others."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import pydantic_core

from gpner.entities import Entity

# The columns of the output that are ours. What is kept of the input stands after them.
OWN_COLUMNS = ("id", "entities", "tokens", "windows", "model", "revision", "source", "row")


@dataclass(frozen=True, slots=True)
class Row:
    """One document.

    `source` names the file. `row` says where in it: the line, counted from 1, of a text file; the row, counted from 0,
    of a table; 0 for a file that is one document. `kept` holds the columns that go into the output as they are; `size`
    is about how many characters text and kept columns have.
    """

    id: str
    text: str
    source: str
    row: int
    kept: dict[str, Any] = field(default_factory=dict)
    size: int = 0


@dataclass(frozen=True, slots=True)
class Problem:
    """What there is instead of entities: of a row, or, where `row` is None, of all the rest of a source.

    `type` is a stable name for programs; `message` says what must hold, what came, what to do.
    """

    id: str | None
    source: str
    row: int | None
    type: str
    message: str

    @property
    def place(self) -> str:
        """File and row, or the file alone."""
        return self.source if self.row is None else f"{self.source}:{self.row}"

    def line(self) -> bytes:
        """Its line of failures.jsonl, without the line's end."""
        reason = {"type": self.type, "message": self.message}
        return pydantic_core.to_json({"id": self.id, "source": self.source, "row": self.row, "reason": reason})


@dataclass(frozen=True, slots=True)
class Found:
    """What a model found in a document; `entities` are the objects that stand in the output."""

    entities: Sequence[Mapping[str, Any]]
    tokens: int
    windows: int
    model: str
    revision: str

    def line(self, row: Row) -> bytes:
        """The document's line of the output, without the line's end."""
        own = (row.id, self.entities, self.tokens, self.windows, self.model, self.revision, row.source, row.row)
        line = dict(zip(OWN_COLUMNS, own, strict=True)) | row.kept
        return pydantic_core.to_json(line, inf_nan_mode="null", bytes_mode="base64", fallback=str)


Item = Row | Problem
Answer = Found | Problem


@dataclass(frozen=True, slots=True)
class Position:
    """How far the input is read: so many items of the source with this number; all sources before it are finished.

    `unended` tells that the last of them is a line without its end: if the file grows, it may have been half a line.
    """

    source: int = 0
    items: int = 0
    unended: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """A few hundred items of one shard, in the order of the input.

    Attributes:
        items: Rows, and problems that reading found.
        end: How far the input is read behind them.
        ended: How far sources are read that were finished on the way, by number.
        bytes_read: How much of the whole input lies before `end`, in bytes of its files.
        full: Whether they are the last of their shard.
        again: Whether they have failed before.
    """

    items: Sequence[Item]
    end: Position
    ended: Mapping[int, Position]
    bytes_read: int
    full: bool
    again: bool = False

    @property
    def rows(self) -> list[Row]:
        """The documents among its items."""
        return [item for item in self.items if isinstance(item, Row)]


Answered = tuple[Block, Sequence[Answer]]


def plain(entities: Iterable[Entity]) -> list[dict[str, Any]]:
    """Entities as the objects that stand in the output."""
    return [{"start": e.start, "end": e.end, "label": e.label, "text": e.text, "score": e.score} for e in entities]


@dataclass
class Tally:
    """Counts of rows; they add up."""

    documents: int = 0
    tokens: int = 0
    windows: int = 0
    entities: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def n_failures(self) -> int:
        """Failures of all reasons."""
        return self.failures.total()

    def add(self, answer: Answer) -> None:
        """Count one row."""
        if isinstance(answer, Found):
            self.documents += 1
            self.tokens += answer.tokens
            self.windows += answer.windows
            self.entities.update([entity["label"] for entity in answer.entities])
        else:
            self.failures[answer.type] += 1

    def __iadd__(self, other: "Tally") -> Self:
        self.documents += other.documents
        self.tokens += other.tokens
        self.windows += other.windows
        self.entities.update(other.entities)
        self.failures.update(other.failures)
        return self

    def to_dict(self) -> dict[str, Any]:
        """As it stands in files."""
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "windows": self.windows,
            "entities": dict(sorted(self.entities.items())),
            "failures": dict(sorted(self.failures.items())),
        }

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Self:
        """Read it back."""
        counts = {name: found[name] for name in ("documents", "tokens", "windows")}
        return cls(**counts, entities=Counter(found["entities"]), failures=Counter(found["failures"]))


def total(tallies: Iterable[Tally]) -> Tally:
    """Their sum."""
    together = Tally()
    for tally in tallies:
        together += tally
    return together
