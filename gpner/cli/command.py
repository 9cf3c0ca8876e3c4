"""What the commands share: how one is added to the parser, and how scores are shown."""

import argparse
from collections.abc import Callable
from typing import Any

from rich.markup import escape
from rich.table import Column, Table

from gpner.cli.problems import printable

RATES = ("precision", "recall", "f1")
COUNTS = ("gold", "found")


def new_command(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], None],
    help_text: str,
    *,
    loads_models: bool = True,
) -> argparse.ArgumentParser:
    """Add a command that calls `run` with its parsed flags; returns its parser, for the flags to be added."""
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".", formatter_class=formatter
    )
    parser.set_defaults(run=run, loads_models=loads_models)
    return parser


def score_table(scores: dict[str, Any], title: str) -> Table:
    """Lay out the scores of an `Evaluation.to_dict()`: a row for each label, their mean, and one for all entities."""
    columns = label_column(), "precision", "recall", "F1", "95 %", "gold", "found"
    table = Table(*columns, title=shown(title))
    for label, row in scores["by_label"].items():
        table.add_row(shown(label), *_rates(row), _interval(scores["label_intervals"][label]), *_counts(row))
    table.add_section()
    table.add_row("(macro)", *_rates(scores["macro"]))
    table.add_row("(micro)", *_rates(scores["micro"]), _interval(scores["interval"]), *_counts(scores["micro"]))
    return table


def shown(text: str) -> str:
    """A name from somebody else's file, as a cell: neither rich's markup nor the terminal's escapes in it work."""
    return escape(printable(text))


def label_column() -> Column:
    """The column of the labels, which are never cut short: several may begin alike."""
    return Column("label", overflow="fold")


def breakdown_table(scores: dict[str, Any]) -> Table:
    """Lay out the other scores of an `Evaluation.to_dict()`: its breakdowns, and the more lenient ones."""
    table = Table("strict, by", "precision", "recall", "F1", "gold", "found")
    for name, unit in (
        ("by_document_tokens", "tokens in the document"),
        ("by_entity_characters", "characters in the entity"),
        ("by_depth", "gold entities around it"),
    ):
        for part, row in scores[name].items():
            table.add_row(f"{part} {unit}", *_rates(row), *_counts(row))
        table.add_section()
    for name, meaning in (("boundaries", "lenient: boundaries alone"), ("types", "lenient: label and an overlap")):
        table.add_row(meaning, *_rates(scores[name]), *_counts(scores[name]))
    return table


def reliability_table(reliability: dict[str, Any], title: str = "") -> Table:
    """Lay out a `Reliability` as a dictionary: what scores promise, and what came of it."""
    error = reliability["expected_calibration_error"]
    caption = f"expected calibration error {error:.3f}"
    table = Table("scores", "entities", "mean score", "correct", title=shown(title), caption=caption)
    for row in reliability["bins"]:
        scores = f"{row['low']:.1f}-{row['high']:.1f}"
        table.add_row(scores, str(row["count"]), f"{row['mean_score']:.3f}", f"{row['share_correct']:.3f}")
    return table


def _rates(row: dict[str, Any]) -> list[str]:
    return [f"{row[name]:.3f}" for name in RATES]


def _counts(row: dict[str, Any]) -> list[str]:
    return [str(row[name]) for name in COUNTS]


def _interval(ends: dict[str, float]) -> str:
    return f"{ends['low']:.3f}-{ends['high']:.3f}"
