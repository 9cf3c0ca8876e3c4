"""`gpner tune`."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gpner.cli.command import label_column, new_command, reliability_table, shown
from gpner.cli.problems import print_problems
from gpner.formats import READERS

ABOUT = """Fit a trained model's thresholds (for F1) and temperature (for scores that mean what they say) to dev
examples, and save them in its config.json. Take neither the examples that it was trained on nor those that it will be
tested on: on these very examples its scores are no honest test any more, and `gpner evaluate` says so."""


def add_command(commands: Any) -> None:
    """Add `tune` to the parser."""
    parser = new_command(
        commands, "tune", _run, "fit a model's thresholds and the meaning of its scores to dev examples"
    )
    parser.description = ABOUT
    parser.add_argument("model", type=Path, help="folder of a trained model; its config.json is changed")
    parser.add_argument("dev", type=Path, help="file of examples, plain or .gz, or a brat folder")
    parser.add_argument("--format", choices=("auto", *READERS), default="auto", help="format of the examples")
    parser.add_argument("--strict", action="store_true", help="stop at the first problem in the examples")


def _run(options: argparse.Namespace) -> None:
    from gpner.evaluation.calibration import save_tuning, tune
    from gpner.examples import read_corpus
    from gpner.extractor import Extractor

    corpus = read_corpus(options.dev, format=options.format, strict=options.strict)
    print_problems(corpus.problems)
    tuning = tune(Extractor.from_pretrained(options.model), corpus.examples, file=options.dev.name)
    save_tuning(options.model, tuning)
    console = Console()
    console.print(
        _threshold_table(tuning.thresholds, tuning.before.to_dict(), tuning.after.to_dict(), options.dev.name)
    )
    console.print(f"temperature {tuning.temperature:.3f}")
    console.print(reliability_table(asdict(tuning.reliability_before), title="scores before"))
    console.print(reliability_table(asdict(tuning.reliability_after), title="scores after"))


def _threshold_table(thresholds: dict[str, float], before: dict[str, Any], after: dict[str, Any], title: str) -> Table:
    table = Table(label_column(), "threshold", "F1 before", "F1 after", title=shown(title))
    for label, threshold in thresholds.items():
        f1 = [
            f"{scores['by_label'][label]['f1']:.3f}" if label in scores["by_label"] else "-"
            for scores in (before, after)
        ]
        table.add_row(shown(label), f"{threshold:.2f}", *f1)
    table.add_section()
    for name in ("macro", "micro"):
        table.add_row(f"({name})", "", *(f"{scores[name]['f1']:.3f}" for scores in (before, after)))
    return table
