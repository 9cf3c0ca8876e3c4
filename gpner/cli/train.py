"""`gpner train`."""

import argparse
from typing import Any

from rich.console import Console

from gpner.cli.command import new_command, score_table
from gpner.flags import add_flags, read_flags
from gpner.training_options import TrainingOptions

ABOUT = """Train a model on labelled examples and keep the epoch that scores best on others.

The run folder (--output) receives the model with its model card, metrics.json, curves.png, training.log and logs for
TensorBoard. A run that was killed continues with --resume. On several GPUs: torchrun --nproc-per-node N -m gpner.cli
train and the same flags. Defaults are those published for GlobalPointer with BERT-base."""


def add_command(commands: Any) -> None:
    """Add `train` to the parser."""
    parser = new_command(commands, "train", _run, "train a model on labelled examples and keep the best epoch")
    parser.description = ABOUT
    parser.usage = "gpner train --train PATH --dev PATH --encoder NAME --output PATH [further flags]"
    add_flags(parser, TrainingOptions)


def _run(options: argparse.Namespace) -> None:
    from gpner.cli.problems import print_problems
    from gpner.training import train

    report = train(read_flags(options, TrainingOptions), on_problems=print_problems)
    if not report.is_main:
        return
    console = Console()
    console.print(score_table(report.dev.to_dict(), title=f"{options.dev} (best epoch)"))
    if report.inexpressible:
        console.print(f"{len(report.inexpressible)} gold spans cannot be learnt; metrics.json lists them")
    if report.windowed:
        console.print(f"{report.windowed} documents are longer than the context and were read in windows")
    console.print(
        f"trained on {report.windows} windows in {report.seconds:.0f} s; the model is in {options.output}",
        markup=False,
        soft_wrap=True,
    )
