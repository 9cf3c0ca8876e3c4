"""The command line of the service: `gpner-worker start | status | submit | dead | demo`."""

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gpner.errors import DataError, GpnerError, QueueFull
from worker.client import Client
from worker.connection import explaining
from worker.protocol import shorten
from worker.queue import DocumentQueue
from worker.results import DeadLetter
from worker.settings import load_settings
from worker.whereabouts import consumers

# Exit code of a command that could not do its work because of what the user gave it.
WRONG_USE = 2
# As shells count it: 128 and the number of SIGINT.
INTERRUPTED = 130
SHOWN_DEAD_LETTERS = 50

console = Console(soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake ends as one line on standard error and exit code 2."""
    options = build_parser().parse_args(arguments)
    try:
        options.run(options)
    except GpnerError as error:
        message = str(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except ModuleNotFoundError as error:
        message = f"this command needs the package {error.name}, it is not installed; run `pip install 'gpner[worker]'`"
    else:
        return 0
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"error: {message}", markup=False, style="red")
    return WRONG_USE


def build_parser() -> argparse.ArgumentParser:
    """Describe all commands and their flags."""
    parser = argparse.ArgumentParser(
        prog="gpner-worker",
        description="Entities from a queue of long documents. Set up by environment variables: see docs/operations.md.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _command(commands, "start", _start, "claim a GPU or the CPU and serve documents until SIGTERM")
    _command(commands, "status", _status, "show queue depths, dead letters and workers")
    submit = _command(commands, "submit", _submit, "enqueue text files, each as one document, and print their ids")
    submit.add_argument("files", nargs="+", metavar="FILE", help="text file in UTF-8; - is standard input")
    submit.add_argument("--priority", choices=("high", "normal", "bulk"), default="normal", help="default: normal")
    _command(
        commands, "dead", _dead, f"list the newest {SHOWN_DEAD_LETTERS} documents that were given up, with the reason"
    )
    demo = _command(commands, "demo", _demo, "show everything at work: a private Redis, a worker, two dozen documents")
    demo.add_argument("--keep", action="store_true", help="leave Redis and the worker running until Ctrl-C")
    return parser


def _command(commands: Any, name: str, run: Any, help_text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help_text, description=f"{help_text}.")
    parser.set_defaults(run=run)
    return parser


def _start(options: argparse.Namespace) -> None:
    from worker.starting import start

    start(console)


def _demo(options: argparse.Namespace) -> None:
    from worker.demo.run import run_demo

    run_demo(Console(), keep=options.keep)  # its panels wrap their text


def _status(options: argparse.Namespace) -> None:
    settings = load_settings()
    queue = DocumentQueue(settings, consumer="status")
    depth = queue.depth()
    console.print(_table(("stream", "unfinished documents"), depth.items()))
    console.print(f"oldest unfinished document: {queue.oldest_age_seconds():.1f} s")
    console.print(f"dead letters: {queue.dead_letters()}")
    with explaining(settings.redis_url):
        workers = _workers(consumers(queue.redis, queue.keys))
    console.print(_table(("worker", "documents held", "silent for"), workers))
    queue.close()


def _workers(found: Iterable[dict[str, Any]]) -> list[tuple[str, int, str]]:
    held: dict[str, int] = {}
    silent: dict[str, float] = {}
    for consumer in found:
        name = consumer["name"].decode("utf-8", "replace")
        held[name] = held.get(name, 0) + consumer["pending"]
        silent[name] = min(silent.get(name, float("inf")), consumer["idle"] / 1000)
    return [(name, held[name], f"{silent[name]:.1f} s") for name in sorted(held)]


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
                console.print(document_id, markup=False, highlight=False)


def _read(name: str) -> str:
    try:
        return (sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()).decode()
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: must be UTF-8, is not at byte {error.start}; convert it first") from error


def _dead(options: argparse.Namespace) -> None:
    queue = DocumentQueue(load_settings(), consumer="dead")
    with explaining(queue.url):
        rows: Any = queue.redis.xrevrange(queue.keys.dead, count=SHOWN_DEAD_LETTERS)
    letters = [(entry_id.decode(), DeadLetter.model_validate_json(fields[b"letter"])) for entry_id, fields in rows]
    table = [
        (
            _when(entry_id),
            shorten(letter.entry.original_fields().get(b"id", b"")),
            letter.deliveries,
            letter.reason.type,
            letter.reason.message,
        )
        for entry_id, letter in letters
    ]
    console.print(_table(("buried", "document", "deliveries", "type", "reason"), table))
    queue.close()


def _when(entry_id: str) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(int(entry_id.partition("-")[0]) / 1000))


def _table(columns: Iterable[str], rows: Iterable[Sequence[object]]) -> Table:
    from rich.text import Text

    table = Table(*columns)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    return table


if __name__ == "__main__":
    sys.exit(main())
