"""What the commands share: how one is added to the parser, and how scores are shown."""

import argparse
from collections.abc import Callable
from typing import Any

from rich.markup import escape
from rich.table import Table


def new_command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], None], help_text: str
) -> argparse.ArgumentParser:
    """Add a command that calls `run` with its parsed flags; returns its parser, for the flags to be added."""
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".", formatter_class=formatter
    )
    parser.set_defaults(run=run)
    return parser


def score_table(scores: dict[str, Any], title: str) -> Table:
    """Lay out the scores of an `Evaluation.to_dict()`: a row for each label and one for all."""
    table = Table("label", "precision", "recall", "F1", "gold", "found", title=escape(title))
    for label, row in (*scores["by_label"].items(), ("(all)", scores["micro"])):
        figures = [f"{row[name]:.3f}" for name in ("precision", "recall", "f1")]
        table.add_row(escape(label), *figures, str(row["gold"]), str(row["found"]))
    return table
