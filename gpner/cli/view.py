"""`gpner view`."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from gpner.cli.command import new_command
from gpner.cli.problems import print_problems, printable


def add_command(commands: Any) -> None:
    """Add `view` to the parser."""
    help_text = "write a page to look at the entities of a bulk job, or of a file of results"
    parser = new_command(commands, "view", _run, help_text, loads_models=False)
    parser.add_argument("results", type=Path, help="output folder of a bulk job, or a file of results")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="page to write (default: view.html in the folder, or the file's name and .html)",
    )


def _run(options: argparse.Namespace) -> None:
    from gpner.view import write_view

    page = options.output if "output" in options else _beside(options.results)
    view = write_view(options.results, page, reading=_show_progress)
    print_problems(view.problems.first)
    counts = f"documents: {view.documents}, entities: {view.entities}, failures: {view.failures}"
    sys.stdout.write(f"{counts}, problems: {view.problems.total}; the page is {printable(str(page))}\n")


def _beside(results: Path) -> Path:
    return results / "view.html" if results.is_dir() else results.with_name(f"{results.name}.html")


def _show_progress(files: Sequence[Path]) -> Iterable[Path]:
    console = Console(stderr=True)
    return track(files, "reading", console=console, transient=True, disable=not console.is_terminal)
