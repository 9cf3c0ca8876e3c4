"""`gpner-worker demo`."""

import argparse
from typing import Any

from rich.console import Console

from worker.cli.command import new_command


def add_command(commands: Any) -> None:
    """Add `demo` and its flag to the parser."""
    parser = new_command(
        commands, "demo", _demo, "show everything at work: a private Redis, a worker, two dozen documents"
    )
    parser.add_argument("--keep", action="store_true", help="leave Redis and the worker running until Ctrl-C")


def _demo(options: argparse.Namespace) -> None:
    from worker.demo.run import run_demo

    run_demo(Console(), keep=options.keep)  # its panels wrap their text
