"""`gpner extend`."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from gpner.cli.command import new_command
from gpner.errors import ConfigError

# More tokens than documents have; at 1,024 numbers a row the table takes 4 GB.
MAX_CONTEXT = 2**20


def add_command(commands: Any) -> None:
    """Add `extend` to the parser."""
    parser = new_command(commands, "extend", _run, "give an encoder a longer position table")
    parser.add_argument(
        "encoder",
        help="local folder or hub name of a transformers encoder, or of a gpner model, which keeps its head and reads "
        "so much at once from then on",
    )
    parser.add_argument("output", type=Path, help="folder for the longer encoder")
    parser.add_argument(
        "--context", type=int, required=True, default=argparse.SUPPRESS, help="positions that it shall have"
    )
    parser.add_argument(
        "--method", choices=("hierarchical", "tiled", "random"), default="hierarchical", help="how rows are made"
    )
    parser.add_argument("--alpha", type=float, default=0.4, help="weight of the coarse position; not 0.5")
    parser.add_argument("--anchor", choices=("mean", "first"), default="mean", help="row that offsets are counted from")
    parser.add_argument(
        "--attention-window",
        type=int,
        default=argparse.SUPPRESS,
        metavar="TOKENS",
        help="let every token see so many to either side, and not the whole context: time linear in the length",
    )


def _run(options: argparse.Namespace) -> None:
    from gpner.checkpoint import check_new, load_checkpoint, load_tokenizer, make_folder, save_checkpoint
    from gpner.model import is_gpner_model
    from gpner.positions import extend_encoder
    from gpner.pretraining.model import encoder_of, load_with_head
    from gpner.run_folder import written_aside

    if options.context > MAX_CONTEXT:
        raise ConfigError(f"context must be at most {MAX_CONTEXT:,} positions, was: {options.context:,}")
    check_new(options.output)
    # Whatever head there is stays, for `gpner pretrain` or `gpner train` to go on with.
    trained = is_gpner_model(options.encoder)
    model = load_checkpoint(options.encoder)[0] if trained else load_with_head(options.encoder)
    tokenizer = load_tokenizer(options.encoder)
    settings = {"method": options.method, "alpha": options.alpha, "anchor": options.anchor}
    window = getattr(options, "attention_window", None)
    extend_encoder(encoder_of(model), options.context, **settings, attention_window=window)
    tokenizer.model_max_length = options.context
    if trained:
        model.config.context = options.context
    make_folder(options.output)
    with written_aside(options.output) as aside:
        save_checkpoint(model, tokenizer, aside)
    Console().print(f"{options.output} reads {options.context} positions", markup=False, soft_wrap=True)
