"""What a reader hands on: examples as their file has them, not yet checked, and problems with their place.

A reader only knows its format. Whether offsets fit the text, ids are unique and so on is checked once for all formats,
in `gpner.examples`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in a file that could not be taken as it stands; line 0 is the file as a whole."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" if self.line else f"{self.file}: {self.message}"


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file; line 0 is the file as a whole."""

    file: str
    line: int

    def problem(self, message: str) -> Problem:
        """A problem at this place."""
        return Problem(self.file, self.line, message)


@dataclass(frozen=True, slots=True)
class RawEntity:
    """An entity as its file has it: offsets in characters, end exclusive, of whatever type stood there.

    `surface` is the text that the file says it covers, or None where the format does not repeat it.
    """

    place: Place
    start: object
    end: object
    label: object
    surface: str | None = None


@dataclass(frozen=True, slots=True)
class RawExample:
    """An example as its file has it."""

    place: Place
    id: object
    text: object
    entities: Sequence[RawEntity]


Reader = Callable[[Path], Iterator[RawExample | Problem]]
