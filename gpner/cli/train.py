"""`gpner train`."""

import argparse
from typing import Any

from rich.console import Console

from gpner.cli.command import new_command, score_table
from gpner.flags import add_flags, read_flags
from gpner.options import TrainingOptions


def add_command(commands: Any) -> None:
    """Add `train` to the parser."""
    parser = new_command(commands, "train", _run, "train a model on JSONL examples and keep the best epoch")
    add_flags(parser, TrainingOptions)


def _run(options: argparse.Namespace) -> None:
    from gpner.training import train

    report = train(read_flags(options, TrainingOptions))
    console = Console()
    console.print(score_table(report.dev.to_dict(), title=f"{options.dev} (best epoch)"))
    if report.inexpressible:
        console.print(f"{len(report.inexpressible)} gold spans lie off token borders; metrics.json lists them")
    console.print(f"trained on {report.windows} windows in {report.seconds:.0f} s; the model is in {options.output}")
