"""What the commands share: how one is added to the parser, and how foreign words are shown."""

import argparse
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.text import Text

SHOWN_CHARACTERS = 1000

console = Console(soft_wrap=True, highlight=False)


def new_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], help_text: str
) -> argparse.ArgumentParser:
    """Add a command that calls `run` with its parsed flags; returns its parser, for the flags to be added."""
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help_text, description=f"{help_text}.")
    parser.set_defaults(run=run)
    return parser


def shown(value: object) -> Text:
    """A foreign word for a terminal: neither markup nor escape sequences in it work, and it is no megabyte."""
    text = str(value)
    cut = text[:SHOWN_CHARACTERS]
    readable = cut if cut.isprintable() else ascii(cut)
    return Text(readable if cut == text else f"{readable}...")


def duration(seconds: float) -> str:
    """A time span in the unit that suits it."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
