"""Finished shards of a job: each has a manifest, one small file, and counts from the moment that this is there."""

import json
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import pydantic_core

from gpner.errors import ConfigError
from worker.bulk.rows import Position, Tally

AFRESH = "give what it was begun with, or begin afresh with another --output"


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
    """

    number: int
    items: int
    end: Position
    ended: Mapping[int, Position]
    tally: Tally
    sample_limit: str
    retried: "Mapping[str, array[int]] | None" = None

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
        )


def read_manifests(folder: Path) -> list[Manifest]:
    """The manifests in a folder, in the order of their shards.

    Raises:
        ConfigError: If one is broken or missing.
    """
    found = []
    for path in folder.glob("part-*.json"):
        with refusing_broken(path):
            found.append(Manifest.from_json(path.read_bytes()))
    found.sort(key=lambda manifest: manifest.number)
    for number, manifest in enumerate(found):
        if manifest.number != number:
            raise ConfigError(
                f"{folder} must hold a manifest of each shard, that of shard {number} is missing; {AFRESH}"
            )
    return found


@contextmanager
def refusing_broken(path: Path) -> Iterator[None]:
    """Say of a file that it is not what a job wrote, if it cannot be understood."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} must be what a bulk job wrote, is not: {error!r}; {AFRESH}") from None
