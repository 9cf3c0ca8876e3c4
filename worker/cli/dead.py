"""`gpner-worker dead`: look at documents that were given up, put them back, or drop them."""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from rich.prompt import Confirm
from rich.table import Column, Table
from rich.text import Text

from gpner.errors import ConfigError, DocumentError
from worker.cli.command import console, duration, new_command, shown
from worker.dead import DeadLetters, Letter
from worker.settings import load_settings

SHOWN_LETTERS = 50
ID_HELP = "a dead letter, or a document: of a document that has several letters the newest"


def add_command(commands: Any) -> None:
    """Add `dead` and its own commands to the parser."""
    help_text = "look at documents that were given up, put them back, or drop them"
    parser: argparse.ArgumentParser = commands.add_parser("dead", help=help_text, description=f"{help_text}.")
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    listing = new_command(actions, "list", _list, "list dead letters with their reasons, newest first")
    listing.add_argument(
        "--limit", type=_positive, default=SHOWN_LETTERS, metavar="N", help=f"at most so many; default: {SHOWN_LETTERS}"
    )
    _add_reason(listing)
    listing.add_argument("--json", action="store_true", help="one JSON object a line, for programs")

    show = new_command(actions, "show", _show, "show one dead letter: its reason and the fields of its document")
    show.add_argument("id", metavar="ID", help=ID_HELP)
    show.add_argument("--text", action="store_true", help="the document's text too")

    retry = new_command(actions, "retry", _retry, "put documents back onto their streams; their letters go")
    _add_choice(retry)

    drop = new_command(actions, "drop", _drop, "delete dead letters, and the documents in them, for good")
    _add_choice(drop)
    drop.add_argument("--yes", action="store_true", help="do not ask")


def _add_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help=ID_HELP)
    parser.add_argument("--all", action="store_true", help="all that are there now, instead of ids")
    _add_reason(parser)


def _add_reason(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", metavar="TYPE", help="only those of this type, DocumentError for instance")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, was: {text}")
    return int(text)


def _list(options: argparse.Namespace) -> None:
    with DeadLetters(load_settings()) as dead:
        letters = islice(dead.newest(options.reason), options.limit)
        if options.json:
            for letter in letters:
                sys.stdout.write(json.dumps(_summary(letter)) + "\n")
        else:
            console.print(_table(letters))


def _summary(letter: Letter) -> dict[str, Any]:
    """What there is to say of a letter, apart from the document's text."""
    return {
        "letter": letter.letter_id,
        "buried": datetime.fromtimestamp(letter.buried_seconds, UTC).isoformat(timespec="milliseconds"),
        "document": letter.document_id,
        "stream": letter.stream,
        "deliveries": letter.deliveries,
        "reason": letter.reason.model_dump(),
    }


def _table(letters: Iterable[Letter]) -> Table:
    fixed = [Column(name, no_wrap=True) for name in ("letter", "age")]
    deliveries = Column("deliveries", justify="right", no_wrap=True)
    table = Table(*fixed, Column("document", overflow="fold"), deliveries, Column("reason", overflow="fold"))
    for letter in letters:
        table.add_row(
            letter.letter_id,
            duration(max(0.0, time.time() - letter.buried_seconds)),
            shown("-" if letter.document_id is None else letter.document_id),
            str(letter.deliveries),
            shown(_reason(letter)),
        )
    return table


def _show(options: argparse.Namespace) -> None:
    with DeadLetters(load_settings()) as dead:
        (letter_id,) = _named(dead, [options.id])
        letter = dead.get(letter_id)
    if letter is None:
        raise DocumentError(f"dead letter {letter_id} was put back or dropped just now")
    for name, value in (_summary(letter) | {"reason": _reason(letter)}).items():
        console.print(Text(f"{name}: ").append(shown("-" if value is None else value)))
    for field, content in letter.fields.items():
        console.print(Text("field ").append(shown(_decoded(field))).append(f" ({len(content):,} bytes)"))
        if field != b"text":
            console.print(Text("  ").append(shown(_decoded(content))))
        elif options.text:
            console.print(Text(_harmless(_decoded(content))))


def _reason(letter: Letter) -> str:
    return f"{letter.reason.type}: {letter.reason.message}"


def _decoded(content: bytes) -> str:
    return content.decode("utf-8", "backslashreplace")


def _harmless(text: str) -> str:
    """A text with its lines, but with nothing in it that a terminal would obey."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1] for letter in text)


def _retry(options: argparse.Namespace) -> None:
    refused: list[str] = []
    put_back = gone = 0
    with DeadLetters(load_settings()) as dead:
        letter_ids = _chosen(dead, options)
        try:
            for letter_id in letter_ids:
                try:
                    done = dead.retry(letter_id)
                except DocumentError as error:
                    refused.append(str(error))
                else:
                    put_back, gone = put_back + done, gone + (not done)
        finally:
            already = f"; {gone} had been put back or dropped meanwhile" if gone else ""
            console.print(f"put back {put_back} of {len(letter_ids)} documents{already}")
    if refused:
        raise DocumentError(refused[0] + (f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""))


def _drop(options: argparse.Namespace) -> None:
    with DeadLetters(load_settings()) as dead:
        letter_ids = _chosen(dead, options)
        if letter_ids and not options.yes and not _confirmed(len(letter_ids)):
            console.print("nothing was dropped")
            return
        console.print(f"dropped {dead.drop(letter_ids)} of {len(letter_ids)} dead letters")


def _confirmed(letters: int) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError(f"--yes must be given to drop {letters} dead letters where nobody can be asked")
    return Confirm.ask(f"drop {letters} dead letters and their documents for good?", default=False, console=console)


def _chosen(dead: DeadLetters, options: argparse.Namespace) -> list[str]:
    """The ids of the letters that the command is about, oldest first if it is about all."""
    if bool(options.ids) == options.all:
        raise ConfigError("either ids or --all must be given, was: " + ("both" if options.all else "neither"))
    if options.all:
        return [letter.letter_id for letter in dead.newest(options.reason)][::-1]
    if options.reason:
        raise ConfigError("--reason goes with --all, not with ids")
    return _named(dead, options.ids)


def _named(dead: DeadLetters, ids: Sequence[str]) -> list[str]:
    """The letter that each id names; says so if it is the newest of several.

    Raises:
        DocumentError: If an id names none.
    """
    found = dead.find(ids)
    if unknown := [name for name, letters in found.items() if not letters]:
        raise DocumentError(
            f"an id must name a dead letter or its document, {shown(unknown[0])} names none; "
            "see `gpner-worker dead list`"
        )
    for name, (newest, *older) in found.items():
        if older:
            note = f" has {len(older) + 1} dead letters; taking the newest, {newest}, not "
            console.print(Text("document ").append(shown(name)).append(note).append(shown(", ".join(older))))
    return list(dict.fromkeys(newest for newest, *_ in found.values()))
