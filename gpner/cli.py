"""The command line of the model: `gpner train | evaluate | extract | extend`."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gpner.errors import DocumentError, GpnerError
from gpner.options import TrainingOptions, add_flags

# Exit code of a command that could not do its work because of what the user gave it.
WRONG_USE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake ends as one line on standard error and exit code 2."""
    options = build_parser().parse_args(arguments)
    try:
        _quiet_libraries()
        options.run(options)
    except GpnerError as error:
        message = str(error)
    except ModuleNotFoundError as error:
        message = f"this command needs the package {error.name}, it is not installed; run `pip install 'gpner[train]'`"
    else:
        return 0
    line = " ".join(message.split())  # libraries that we quote write several
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"error: {line}", markup=False, style="red")
    return WRONG_USE


def build_parser() -> argparse.ArgumentParser:
    """Describe all commands and their flags."""
    parser = argparse.ArgumentParser(prog="gpner", description="Nested named entities over whole long documents.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = _command(commands, "train", _train, "train a model on JSONL examples and keep the best epoch")
    add_flags(train)
    evaluate = _command(commands, "evaluate", _evaluate, "score a model on JSONL examples: strict spans, whole corpus")
    evaluate.add_argument("model", type=Path, help="folder of a trained model")
    evaluate.add_argument("examples", type=Path, help="JSONL file of examples, plain or .gz")
    evaluate.add_argument("--json", action="store_true", help="print the scores as JSON")
    extract = _command(commands, "extract", _extract, "extract the entities of text files, or of standard input")
    extract.add_argument("model", type=Path, help="folder of a trained model")
    extract.add_argument("files", nargs="*", type=Path, help="text files in UTF-8; standard input if none is named")
    extract.add_argument("--flat", action="store_true", help="keep only the best of overlapping entities")
    extend = _command(commands, "extend", _extend, "give an encoder a longer position table")
    extend.add_argument("encoder", help="local folder or hub name of a transformers encoder")
    extend.add_argument("output", type=Path, help="folder for the longer encoder")
    extend.add_argument("--context", type=int, required=True, help="positions that it shall have")
    extend.add_argument(
        "--method", choices=("hierarchical", "random"), default="hierarchical", help="how rows are made"
    )
    extend.add_argument("--alpha", type=float, default=0.4, help="weight of the coarse position; not 0.5")
    extend.add_argument("--anchor", choices=("mean", "first"), default="mean", help="row that offsets are counted from")
    return parser


def _command(commands: Any, name: str, run: Any, help_text: str) -> argparse.ArgumentParser:
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".", formatter_class=formatter
    )
    parser.set_defaults(run=run)
    return parser


def _quiet_libraries() -> None:
    """Leave out the progress bar of every file and the log of every retry; training's own progress stays."""
    import logging

    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def _train(options: argparse.Namespace) -> None:
    from gpner.training import train

    chosen = {option.name: getattr(options, option.name) for option in fields(TrainingOptions)}
    report = train(TrainingOptions(**chosen))
    console = Console()
    console.print(_score_table(report.dev.to_dict(), title=f"{options.dev} (best epoch)"))
    if report.inexpressible:
        console.print(f"{len(report.inexpressible)} gold spans lie off token borders; metrics.json lists them")
    console.print(f"trained on {report.windows} windows in {report.seconds:.0f} s; the model is in {options.output}")


def _evaluate(options: argparse.Namespace) -> None:
    from gpner.dataset import read_examples
    from gpner.evaluation import evaluate_extractor
    from gpner.extractor import Extractor

    examples = read_examples(options.examples)
    scores = evaluate_extractor(Extractor.from_pretrained(options.model), examples).to_dict()
    if options.json:
        sys.stdout.write(json.dumps(scores, indent=2) + "\n")
    else:
        Console().print(_score_table(scores, title=str(options.examples)))


def _extract(options: argparse.Namespace) -> None:
    from gpner.extractor import Extractor

    extractor = Extractor.from_pretrained(options.model, flat=options.flat)
    names = [str(file) for file in options.files] or ["-"]
    for name, extraction in zip(names, extractor.extract_iter(_read_texts(names)), strict=True):
        line = {"id": name, **asdict(extraction)}
        sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")


def _read_texts(names: Sequence[str]) -> Iterator[str]:
    for name in names:
        try:
            yield (sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DocumentError(
                f"a document must be UTF-8, {name} is not at byte {error.start}; convert it first"
            ) from None
        except OSError as error:
            raise DocumentError(f"a document must be a readable file, {name} is not: {error.strerror}") from None


def _extend(options: argparse.Namespace) -> None:
    from gpner.checkpoint import load_tokenizer, make_folder
    from gpner.model import load_encoder
    from gpner.positions import extend_encoder

    make_folder(options.output)
    encoder, tokenizer = load_encoder(options.encoder), load_tokenizer(options.encoder)
    extend_encoder(encoder, options.context, method=options.method, alpha=options.alpha, anchor=options.anchor)
    tokenizer.model_max_length = options.context
    encoder.save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    Console().print(f"{options.output} reads {options.context} positions")


def _score_table(scores: dict[str, Any], title: str) -> Table:
    table = Table("label", "precision", "recall", "F1", "gold", "found", title=escape(title))
    for label, row in (*scores["by_label"].items(), ("(all)", scores["micro"])):
        figures = [f"{row[name]:.3f}" for name in ("precision", "recall", "f1")]
        table.add_row(escape(label), *figures, str(row["gold"]), str(row["found"]))
    return table
