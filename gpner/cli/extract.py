"""`gpner extract`."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gpner.cli.command import new_command
from gpner.errors import ConfigError, DocumentError

if TYPE_CHECKING:
    from gpner.extractor import Extractor


def add_command(commands: Any) -> None:
    """Add `extract` to the parser."""
    help_text = "extract the entities of text files, or of standard input"
    parser = new_command(commands, "extract", _run, help_text)
    parser.add_argument("model", type=Path, help="folder of a trained model")
    parser.add_argument(
        "files",
        nargs="*",
        type=Path,
        default=argparse.SUPPRESS,
        help="text files in UTF-8 (default: standard input)",
    )
    parser.add_argument(
        "--precision", choices=("auto", "int8"), default="auto", help="what the encoder's linear layers multiply in"
    )
    parser.add_argument(
        "--agree-on",
        type=Path,
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="for int8: a text like those to be read, on which it must find what the model otherwise finds",
    )
    parser.add_argument("--flat", action="store_true", help="keep only the best of overlapping entities")


def _run(options: argparse.Namespace) -> None:
    extractor = _load(options)
    names = [str(file) for file in getattr(options, "files", ["-"])]
    for name, extraction in zip(names, extractor.extract_iter(_read_texts(names)), strict=True):
        line = {"id": name, **asdict(extraction)}
        sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")


def _load(options: argparse.Namespace) -> "Extractor":
    from gpner.agreement import require_agreement
    from gpner.extractor import Extractor

    if (options.precision == "int8") != ("agree_on" in options):
        raise ConfigError("--precision int8 and --agree-on FILE must be given together, one of them was not; name both")
    extractor = Extractor.from_pretrained(options.model, precision=options.precision, flat=options.flat)
    if "agree_on" in options:
        usual = Extractor.from_pretrained(options.model, flat=options.flat)
        scores = require_agreement(extractor, usual, list(_read_texts([str(options.agree_on)])))
        sys.stderr.write(f"int8 agrees with the usual precision to {scores.f1:.1%} of F1 ({scores.gold} entities)\n")
    return extractor


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
