"""What comes from somebody else's file, for people to read on their terminal."""

import sys
from collections.abc import Sequence

from gpner.formats.raw import Problem

SHOWN = 20


def print_problems(problems: Sequence[Problem]) -> None:
    """Print problems to standard error: the first twenty, a line each, and how many more there are."""
    for problem in problems[:SHOWN]:
        sys.stderr.write(f"{printable(str(problem))}\n")
    if len(problems) > SHOWN:
        sys.stderr.write(f"and {len(problems) - SHOWN} more\n")


def printable(text: str) -> str:
    """Put blanks for line ends and control characters, which could rewrite what the terminal shows."""
    return "".join(character if character.isprintable() else " " for character in text)
