"""Carries blocks from the input to the output, until the input ends or somebody stops it."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from types import FrameType
from typing import Any, cast

from gpner.errors import GpnerError
from worker.bulk.ahead import BLOCKS_AHEAD, Ahead
from worker.bulk.ends import Answering, Output
from worker.bulk.rows import Answer, Block, Problem
from worker.bulk.show import Display


class Stopped(GpnerError):
    """The job cannot or must not go on, and the same command can go on with it; the message says why."""


class Flow:
    """One run's way through its blocks.

    Args:
        display: Shows how it goes.
        strict: Whether the first problem of the input ends it.
        most_failures: More end it; None is any number.

    Attributes:
        stopped: Why it was ended before its end; None if it was not.
    """

    def __init__(self, display: Display, *, strict: bool, most_failures: int | None) -> None:
        self._display = display
        self._strict = strict
        self._most_failures = most_failures
        self._reading: Ahead[Block] | None = None
        self._stopping = threading.Event()
        self.stopped: str | None = None

    def run(self, blocks: Iterator[Block], answering: Answering, output: Output, round_name: str = "") -> None:
        """Write all blocks with their answers.

        Raises:
            Stopped: If it is strict and there is a problem.
        """
        fresh = self._write_known(blocks, output)
        with closing(Ahead(fresh, BLOCKS_AHEAD)) as self._reading:
            if self._stopping.is_set():
                self._reading.stop()
            answers = answering.answers(self._reading, round_name)
            try:
                for step in answers:
                    if step is not None:
                        self._write(output, *step)
                    self._display.show()
            finally:
                self._reading.stop()
                cast(Any, answers).close()

    def stop(self, reason: str) -> None:
        """Read no more; what is under way is finished and written."""
        self.stopped = self.stopped or reason
        self._stopping.set()
        self._display.say(f"{reason}: finishing what is under way; once more stops at once")
        if self._reading is not None:
            self._reading.stop()

    @contextmanager
    def signals(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM stops in order, the second at once, with KeyboardInterrupt."""

        def handle(number: int, frame: FrameType | None) -> None:
            if self._stopping.is_set():
                raise KeyboardInterrupt
            self.stop(f"stopped by {signal.Signals(number).name}")

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _write_known(self, blocks: Iterator[Block], output: Output) -> Iterator[Block]:
        """Write what an earlier run has got answers to already; returns the rest."""
        for block in blocks:
            answers = output.known(block)
            if answers is None:
                return chain([block], blocks)
            output.write(block, answers, known=True)
            self._display.skip(block, answers)
        return iter(())

    def _write(self, output: Output, block: Block, answers: Sequence[Answer]) -> None:
        if self._strict:
            for item in block.items:
                if isinstance(item, Problem):
                    raise Stopped(f"{item.place}: {item.message} (--strict stops here)")
        output.write(block, answers)
        self._display.update(block, answers)
        too_many = self._most_failures is not None and self._display.failures > self._most_failures
        if too_many and not self._stopping.is_set():
            self.stop(f"there are more than {self._most_failures} failures")
