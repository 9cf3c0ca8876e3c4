"""`gpner-worker submit`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from gpner.errors import DataError, QueueFull
from worker.cli.command import console, new_command
from worker.client import Client


def add_command(commands: Any) -> None:
    """Add `submit` and its flags to the parser."""
    parser = new_command(commands, "submit", _submit, "enqueue text files, each as one document, and print their ids")
    parser.add_argument("files", nargs="+", metavar="FILE", help="text file in UTF-8; - is standard input")
    parser.add_argument("--priority", choices=("high", "normal", "bulk"), default="normal", help="default: normal")


def _submit(options: argparse.Namespace) -> None:
    texts = [_read(name) for name in options.files]
    accepted: list[str] = []
    with Client() as client:
        try:
            accepted = client.submit_many(texts, priority=options.priority)
        except QueueFull as error:
            accepted = error.accepted  # these will be processed, so their ids must be known
            raise
        finally:
            for document_id in accepted:
                console.print(document_id, markup=False)


def _read(name: str) -> str:
    try:
        return (sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()).decode()
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: must be UTF-8, is not at byte {error.start}; convert it first") from error
