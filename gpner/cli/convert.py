"""`gpner convert`."""

import argparse
import gzip
import io
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.table import Table

from gpner.cli.command import label_column, new_command, shown
from gpner.cli.problems import print_problems
from gpner.errors import ConfigError
from gpner.examples import Corpus, Example, read_corpus
from gpner.formats import READERS
from gpner.formats.lines import import_pyarrow

STANDARD_OUTPUT = "-"


def add_command(commands: Any) -> None:
    """Add `convert` to the parser."""
    help_text = "turn examples of any format into our JSONL, and list what was wrong with them"
    parser = new_command(commands, "convert", _run, help_text, loads_models=False)
    parser.add_argument("input", type=Path, help="file of examples, plain, .gz or .zst, or a brat folder")
    parser.add_argument("output", help="JSONL file to write, compressed if it ends in .gz or .zst; - for stdout")
    parser.add_argument("--format", choices=("auto", *READERS), default="auto", help="format of the input")
    parser.add_argument("--strict", action="store_true", help="write nothing and stop at the first problem")


def _run(options: argparse.Namespace) -> None:
    corpus = read_corpus(options.input, format=options.format, strict=options.strict)
    if options.output == STANDARD_OUTPUT:
        _write(corpus.examples, sys.stdout.buffer)
    else:
        with _new_file(Path(options.output)) as file:
            _write(corpus.examples, file)
    print_problems(corpus.problems)
    console = Console(stderr=options.output == STANDARD_OUTPUT)
    console.print(_count_table(corpus))
    console.print(f"documents: {len(corpus.examples)}, problems: {len(corpus.problems)}")


def _write(examples: Iterable[Example], file: BinaryIO) -> None:
    for example in examples:
        line = {"id": example.id, "text": example.text, "entities": example.entities}
        file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name when it is complete, and never before."""
    if path.exists() and not path.is_file():
        raise ConfigError(f"output must be a file, {path} is none; name another")
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("xb") as file:
            if path.suffix.lower() == ".gz":
                # Without name and time in its head, the same examples give the same bytes.
                with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed, io.BufferedWriter(packed) as buffer:
                    yield buffer
            elif path.suffix.lower() == ".zst":
                with import_pyarrow(path).CompressedOutputStream(file, "zstd") as packed:
                    yield packed
            else:
                yield file
        unfinished.replace(path)
    except OSError as error:
        raise ConfigError(f"output must be a file that can be written, {path} cannot: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _count_table(corpus: Corpus) -> Table:
    counts = Counter(label for example in corpus.examples for _, _, label in example.entities)
    table = Table(label_column(), "entities")
    for label, count in sorted(counts.items()):
        table.add_row(shown(label), str(count))
    table.add_row("(all)", str(counts.total()))
    return table
