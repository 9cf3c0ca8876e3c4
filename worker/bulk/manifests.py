"""Finished shards of a job: each has a manifest, one small file, and counts from the moment that this is there."""

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

import pydantic_core

from gpner.errors import ConfigError
from worker.bulk.files import Content, content_of, read_object
from worker.bulk.rows import Position, Tally

AFRESH = "give what it was begun with, or begin afresh with another --output"
RESTORE = "restore it from a copy, or begin afresh with another --output"
# What lies beside a manifest: lines of failures.jsonl and of sample.jsonl.
FAILURES, SAMPLE = "failures", "sample"

# A part of the input by its number, an item of it, and the one behind the last.
Span = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Manifest:
    """One finished shard.

    Attributes:
        number: Its number.
        items: Rows of the input that it covers, failed ones too.
        end: How far the input is read behind it.
        ended: How far sources are read that ended in it, by number.
        tally: Its counts.
        sample_limit: As in `Sample`.
        retried: Rows of failures that were tried again in it, by source, in ascending order, as numbers and no objects:
            there may be very many. None for an ordinary shard; empty for the rest of a source that had broken.
        beside: What the files beside the manifest hold, by their kind; the others are not there.
    """

    number: int
    items: int
    end: Position
    ended: Mapping[int, Position]
    tally: Tally
    sample_limit: str
    retried: "Mapping[str, array[int]] | None" = None
    beside: Mapping[str, Content] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """As it stands in its file."""
        return pydantic_core.to_json(
            {
                "number": self.number,
                "items": self.items,
                "end": asdict(self.end),
                "ended": [asdict(position) for position in self.ended.values()],
                **self.tally.to_dict(),
                "sample_limit": self.sample_limit,
                "retried": self.retried and {name: rows.tolist() for name, rows in self.retried.items()},
                "beside": self.beside,
            }
        )

    @classmethod
    def from_json(cls, content: bytes) -> Self:
        """Read it back."""
        found = json.loads(content)
        retried = found["retried"]
        return cls(
            found["number"],
            found["items"],
            Position(**found["end"]),
            {position["source"]: Position(**position) for position in found["ended"]},
            Tally.from_dict(found),
            found["sample_limit"],
            None if retried is None else {name: array("q", rows) for name, rows in retried.items()},
            {kind: Content(*content) for kind, content in found["beside"].items()},
        )


def read_manifests(folder: Path) -> list[Manifest]:
    """The manifests in a folder, in the order of their shards.

    Raises:
        ConfigError: If one is broken or missing, or what lies beside it is another's.
    """
    found = []
    for path in folder.glob("part-*.json"):
        with refusing_broken(path):
            found.append(Manifest.from_json(read_object(path)))
    found.sort(key=lambda manifest: manifest.number)
    for number, manifest in enumerate(found):
        if manifest.number != number:
            raise ConfigError(
                f"{folder} must hold a manifest of each shard, that of shard {number} is missing; {RESTORE}"
            )
        for kind, content in manifest.beside.items():
            _check_content(path_beside(folder, number, kind), content)
    return found


def path_beside(folder: Path, number: int, kind: str) -> Path:
    """Where the lines of a kind lie that belong to a shard."""
    return folder / f"part-{number:05d}.{kind}.jsonl"


def lines_beside(folder: Path, manifest: Manifest, kind: str) -> Iterator[bytes]:
    """The lines of a kind that belong to a shard, without their ends."""
    if kind in manifest.beside:
        with path_beside(folder, manifest.number, kind).open("rb") as file:
            for line in file:
                yield line.removesuffix(b"\n")


def _check_content(path: Path, content: Content) -> None:
    """Find damage before anything is done: its lines are wanted when the run ends."""
    if not path.exists():
        raise ConfigError(f"{path} must be there, it is missing; {RESTORE}")
    with refusing_broken(path):
        if content_of(path) != content:
            raise ValueError("its checksum is not that of its content")


def spans(manifests: Sequence[Manifest]) -> Iterator[list[Span]]:
    """What each shard has read of the input for the first time; rows that were tried again are none of it."""
    reached: dict[int, int] = {}
    for manifest in manifests:
        ends = {number: position.items for number, position in manifest.ended.items()}
        if manifest.retried is None:
            ends.setdefault(manifest.end.source, manifest.end.items)
        begun = [(number, reached.get(number, 0), end) for number, end in sorted(ends.items())]
        yield [(number, first, end) for number, first, end in begun if first < end]
        reached |= ends


@contextmanager
def refusing_broken(path: Path) -> Iterator[None]:
    """Say of a file that it is not what a job wrote, if it cannot be understood."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} must be what a bulk job wrote, is not: {error}; {RESTORE}") from None
