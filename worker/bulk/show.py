"""What a bulk job shows: how far it is, as a bar on a terminal and as lines elsewhere, and what came out."""

import time
from collections.abc import Sequence
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from worker.bulk.rows import Answer, Block, Found, Tally

# A first line soon, then one every half minute: a log that somebody may read.
FIRST_LINE_SECONDS = 2.0
LINE_SECONDS = 30.0
REFRESH_SECONDS = 0.2


class Display:
    """Shows one run.

    Args:
        console: Where to; None shows nothing.
        total_bytes: Of the input; 0 if that is not known.
        failures: Those of earlier runs.

    Attributes:
        failures: Failures so far, those of earlier runs too.
        tokens: Tokens that were read in this run.
    """

    def __init__(self, console: Console | None, *, total_bytes: int, failures: int) -> None:
        self.failures = failures
        self.tokens = 0
        self._documents = 0
        self._console = console
        self._total_bytes = total_bytes
        self._bytes = self._bytes_before = 0
        self._started = time.monotonic()
        self._shown_at = self._started - LINE_SECONDS + FIRST_LINE_SECONDS
        self._obstacle: str | None = None
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        if self._console is not None and self._console.is_terminal:
            columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("starting", total=self._total_bytes or None)
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    def say(self, words: str) -> None:
        """Show one line."""
        if self._console is not None:
            print_words(self._console, words)

    def skip(self, block: Block, answers: Sequence[Answer]) -> None:
        """Count a block that an earlier run has done."""
        self._bytes = self._bytes_before = block.bytes_read
        self.failures += sum(not isinstance(answer, Found) for answer in answers)

    def update(self, block: Block, answers: Sequence[Answer]) -> None:
        """Count a block that is written."""
        found = [answer for answer in answers if isinstance(answer, Found)]
        self._documents += len(found)
        self.tokens += sum(answer.tokens for answer in found)
        self.failures += len(answers) - len(found)
        self._bytes = block.bytes_read

    def show(self, workers: int | None, obstacle: str | None) -> None:
        """Show how far it is, if it is time to.

        Args:
            workers: How many there are, if that is known.
            obstacle: What documents wait for, if it is not just their turn; told once.
        """
        if self._console is None:
            return
        if obstacle is not None and obstacle != self._obstacle:
            self.say(obstacle)
        self._obstacle = obstacle
        now = time.monotonic()
        if now - self._shown_at < (REFRESH_SECONDS if self._bar is not None else LINE_SECONDS):
            return
        self._shown_at = now
        if self._bar is not None:
            self._bar.update(self._task, completed=self._bytes, description=self._words(workers))
        else:
            self.say(f"{self._words(workers)}{self._left()}")

    def _words(self, workers: int | None) -> str:
        words = f"{self._documents:,} documents, {self.tokens / max(self.seconds, 1e-9):,.0f} tokens/s"
        seen = "" if workers is None else f", {workers} worker{'' if workers == 1 else 's'}"
        return f"{words}, {self.failures:,} failures{seen}"

    def _left(self) -> str:
        done = self._bytes - self._bytes_before
        if not self._total_bytes or not done:
            return ""
        seconds = self.seconds * max(0, self._total_bytes - self._bytes) / done
        return f", about {seconds:,.0f} s left"


def print_summary(console: Console, summary: dict[str, Any], tally: Tally) -> None:
    """Show what a job has come to."""
    table = Table(title=f"{summary['state']}, shards: {summary['shards']}")
    table.add_column("")
    table.add_column("", justify="right")
    last = summary["last_run"]
    rows = {
        "documents": f"{tally.documents:,}",
        "tokens": f"{tally.tokens:,}",
        "this run": f"{last['seconds']:,.1f} s, {last['tokens_per_second']:,.0f} tokens/s",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    for title, counts in (("entities", tally.entities), ("failures", tally.failures)):
        table.add_section()
        table.add_row(title, f"{counts.total():,}")
        for name, count in counts.most_common():
            table.add_row(f"  {readable(name)}", f"{count:,}")
    console.print(table, markup=False)


def print_words(console: Console, words: str) -> None:
    """Print a line that may hold names and messages of others."""
    console.print(readable(words), markup=False, highlight=False, soft_wrap=True)


def readable(words: str) -> str:
    """Words of others for a terminal: control characters, which could rewrite what it shows, stand there as codes."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in words)
