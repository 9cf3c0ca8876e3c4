"""`gpner-worker status`."""

import argparse
import json
import sys
import time
from contextlib import suppress
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from gpner.errors import ServiceError
from worker.cli.command import console, duration, new_command, shown
from worker.queue import DocumentQueue
from worker.settings import load_settings
from worker.status import Status, StreamStatus, WorkerStatus, read_status

REFRESH_SECONDS = 1.0
MEBIBYTE = 2**20


def add_command(commands: Any) -> None:
    """Add `status` and its flags to the parser."""
    parser = new_command(
        commands, "status", _status, "show streams, workers and rates; on a terminal every second until Ctrl-C"
    )
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--once", action="store_true", help="print once and end, on a terminal too")
    forms.add_argument("--json", action="store_true", help="print once, as one JSON object, for programs")


def _status(options: argparse.Namespace) -> None:
    settings = load_settings()
    queue = DocumentQueue(settings, consumer="status")
    try:
        status = read_status(queue)
        if options.json:
            sys.stdout.write(json.dumps(status.model_dump()) + "\n")
        elif options.once or not console.is_terminal:
            console.print(_page(status))
        else:
            with suppress(KeyboardInterrupt):  # the way to end it
                _watch(queue, status)
    finally:
        queue.close()


def _watch(queue: DocumentQueue, status: Status) -> None:
    """Show it every second; while Redis is away, what was known last and since when."""
    read_at = time.monotonic()
    with Live(_page(status), console=Console(highlight=False), auto_refresh=False) as live:
        while True:
            time.sleep(REFRESH_SECONDS)
            try:
                status = read_status(queue)
            except ServiceError as error:
                age = duration(time.monotonic() - read_at)
                outage = Text(f"{error}; trying again every second, this is from {age} ago", style="red")
                live.update(Group(outage, _page(status)), refresh=True)
            else:
                read_at = time.monotonic()
                live.update(_page(status), refresh=True)


def _page(status: Status) -> RenderableType:
    workers = _workers(status.workers) if status.workers else Text("no worker; start one with `gpner-worker start`")
    return Group(_streams(status.streams), *_summary(status), workers)


def _streams(streams: list[StreamStatus]) -> Table:
    numbers = [Column(name, justify="right") for name in ("unfinished", "waiting", "being processed", "oldest")]
    table = Table(Column("stream", overflow="fold"), *numbers)
    for stream in streams:
        oldest = duration(stream.oldest_age_seconds) if stream.unfinished else "-"
        counts = (stream.unfinished, stream.waiting, stream.processing)
        table.add_row(stream.name, *(f"{count:,}" for count in counts), oldest)
    return table


def _workers(workers: list[WorkerStatus]) -> Table:
    numbers = [Column(name, justify="right", no_wrap=True) for name in ("held", "silent for", "documents/s")]
    words = [Column(name, overflow="fold") for name in ("worker", "state", "device", "model")]
    table = Table(*words[:2], *numbers, *words[2:])
    for worker in workers:
        report = worker.report
        table.add_row(
            shown(worker.name),
            shown(worker.state),
            f"{worker.documents_held:,}",
            duration(worker.silent_seconds),
            f"{report.documents_per_second:,.1f}" if report else "-",
            shown(report.device if report else "-"),
            shown(f"{report.model} {report.revision}".strip() if report else "-"),
        )
    return table


def _summary(status: Status) -> list[Text]:
    letters = f"dead letters: {status.dead_letters:,}" + (" (gpner-worker dead list)" if status.dead_letters else "")
    used = f"Redis memory: {status.used_bytes / MEBIBYTE:,.0f} MiB"
    if status.limit_bytes:
        share = status.used_bytes / status.limit_bytes
        memory = f"{used} of {status.limit_bytes / MEBIBYTE:,.0f} MiB ({share:.0%})"
    else:
        memory = f"{used}, no limit"
    return [Text(_rate(status)), Text(letters), Text(memory)]


def _rate(status: Status) -> str:
    if status.documents_per_second is None:
        return "rate: unknown, no worker tells it"
    rate = f"rate: {status.documents_per_second:,.1f} documents/s"
    if not any(stream.unfinished for stream in status.streams):
        return f"{rate}; nothing is left to do"
    if status.drained_in_seconds is None:
        return f"{rate}; nothing gets done"
    return f"{rate}; all done in about {duration(status.drained_in_seconds)} if no more arrive"
