"""`gpner pretrain`."""

import argparse
from typing import Any

from rich.console import Console
from rich.table import Table

from gpner.cli.command import new_command
from gpner.flags import add_flags, read_flags
from gpner.pretraining_options import PretrainingOptions

ABOUT = """Train an encoder on plain texts to fill in hidden words, before it learns entities; no labels are needed.

The run folder (--output) receives an encoder of transformers with its card, for `gpner train --encoder`, and
metrics.json, curves.png, training.log and logs for TensorBoard. What counts is the perplexity of texts that are held
out: how many words the encoder hesitates between where one is hidden, so the lower the better. It is measured before
training and after each epoch. A run that was killed continues with --resume. On several GPUs: torchrun --nproc-per-node
N -m gpner.cli pretrain and the same flags. Defaults are for going on with a trained encoder (--encoder); one from
scratch (--config) needs a higher rate and many more epochs."""


def add_command(commands: Any) -> None:
    """Add `pretrain` to the parser."""
    parser = new_command(commands, "pretrain", _run, "train an encoder on plain texts to fill in hidden words")
    parser.description = ABOUT
    parser.usage = (
        "gpner pretrain --train PATH --encoder NAME --output PATH [further flags]\n"
        "       gpner pretrain --train PATH --config NAME (--tokenizer NAME | --vocab-size N) --output PATH "
        "[further flags]"
    )
    add_flags(parser, PretrainingOptions)


def _run(options: argparse.Namespace) -> None:
    from gpner.pretraining import pretrain
    from gpner.pretraining.card import ROWS

    report = pretrain(read_flags(options, PretrainingOptions))
    if not report.is_main:
        return
    after = report.history[-1]
    table = Table("perplexity of held-out texts", "before", "after")
    for name, title in ROWS.items():
        if name in after:
            table.add_row(title, f"{report.before[name]:.2f}", f"{after[name]:.2f}")
    console = Console()
    console.print(table)
    if report.new_weights:
        console.print("the encoder came without a trained head and got a new one; metrics.json lists its weights")
    train = report.data["train"]
    console.print(
        f"read {train['documents']} documents as {train['windows']} windows, {train['tokens']} tokens, in "
        f"{report.seconds:.0f} s; the encoder is in {options.output}",
        markup=False,
        soft_wrap=True,
    )
