"""Problems of a corpus, for people to read."""

import sys
from collections.abc import Sequence

from gpner.formats.raw import Problem

SHOWN = 20


def print_problems(problems: Sequence[Problem]) -> None:
    """Print problems to standard error: the first twenty, a line each, and how many more there are."""
    for problem in problems[:SHOWN]:
        # The path and the message may hold line ends and control characters of somebody else's file.
        line = "".join(character if character.isprintable() else " " for character in str(problem))
        sys.stderr.write(f"{line}\n")
    if len(problems) > SHOWN:
        sys.stderr.write(f"and {len(problems) - SHOWN} more\n")
