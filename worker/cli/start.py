"""`gpner-worker start`."""

import argparse
from typing import Any

from worker.cli.command import console, new_command


def add_command(commands: Any) -> None:
    """Add `start` to the parser."""
    new_command(commands, "start", _start, "claim a GPU or the CPU and serve documents until SIGTERM")


def _start(options: argparse.Namespace) -> None:
    from worker.starting import start

    start(console)
