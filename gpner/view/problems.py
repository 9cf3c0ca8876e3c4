"""What can be shown of JSON lines, and what cannot: the first problems, and how many there are."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpner.errors import DataError
from gpner.formats.lines import parse_object, read_lines
from gpner.formats.raw import Problem
from gpner.report.page import shortened

MOST_KEPT = 20


@dataclass
class Problems:
    """Problems in bounded memory: `first` holds twenty, `total` counts all."""

    total: int = 0
    first: list[Problem] = field(default_factory=list)

    def add(self, file: Path, line: int, message: str) -> None:
        """Take one; line 0 is the file as a whole."""
        self.total += 1
        if len(self.first) < MOST_KEPT:
            self.first.append(Problem(str(file), line, shortened(message)))

    @contextmanager
    def of(self, file: Path, line: int) -> Iterator[None]:
        """Take a DataError of the block as a problem of this line, and go on behind the block."""
        try:
            yield
        except DataError as error:
            self.add(file, line, str(error))

    def to_dict(self) -> dict[str, Any]:
        """As the page has them."""
        return {"total": self.total, "first": [str(problem) for problem in self.first]}


def read_objects(file: Path, problems: Problems) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines, each with the number of its line, counted from 1; blank lines are skipped.

    Args:
        file: The file, plain or compressed.
        problems: Where lines go that hold no object, and the end of a file that is damaged.
    """
    for line in read_lines(file, "results"):
        if isinstance(line, Problem):
            problems.add(file, line.line, line.message)
        elif line.text.strip():
            row = None
            with problems.of(file, line.place.line):
                row = parse_object(line.text)
            if row is not None:
                yield line.place.line, row
