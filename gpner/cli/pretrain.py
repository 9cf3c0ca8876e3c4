"""`gpner pretrain`."""

import argparse
from typing import Any

from rich.console import Console
from rich.table import Table

from gpner.cli.command import new_command
from gpner.flags import add_flags, read_flags
from gpner.pretraining_options import PretrainingOptions


def add_command(commands: Any) -> None:
    """Add `pretrain` to the parser."""
    help_text = "train an encoder on plain texts to fill in hidden words, before it learns entities"
    add_flags(new_command(commands, "pretrain", _run, help_text), PretrainingOptions)


def _run(options: argparse.Namespace) -> None:
    from gpner.pretraining import pretrain
    from gpner.pretraining.card import ROWS

    report = pretrain(read_flags(options, PretrainingOptions))
    after = report.history[-1]
    table = Table("perplexity of held-out texts", "before", "after")
    for name, title in ROWS.items():
        if name in after:
            table.add_row(title, f"{report.before[name]:.2f}", f"{after[name]:.2f}")
    console = Console()
    console.print(table)
    train = report.data["train"]
    console.print(
        f"read {train['documents']} documents as {train['windows']} windows, {train['tokens']} tokens, in "
        f"{report.seconds:.0f} s; the encoder is in {options.output}"
    )
