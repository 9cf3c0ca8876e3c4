"""`gpner extract`."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpner.cli.command import new_command
from gpner.errors import DocumentError


def add_command(commands: Any) -> None:
    """Add `extract` to the parser."""
    help_text = "extract the entities of text files, or of standard input"
    parser = new_command(commands, "extract", _run, help_text)
    parser.add_argument("model", type=Path, help="folder of a trained model")
    parser.add_argument("files", nargs="*", type=Path, help="text files in UTF-8; standard input if none is named")
    parser.add_argument("--flat", action="store_true", help="keep only the best of overlapping entities")


def _run(options: argparse.Namespace) -> None:
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
