"""Carries blocks from the input to the output, until the input ends or somebody stops it.

The two ends are `Answering`, this process or the queue, and `Output`, shards or standard output. What takes its time
runs `Ahead`, in a thread.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from queue import Empty, Full, Queue
from typing import Any, Generic, Protocol, TypeVar, cast

from gpner.errors import GpnerError
from worker.bulk.rows import Answer, Answered, Block, Problem
from worker.bulk.show import Display

Step = TypeVar("Step")
# So many blocks of documents may lie ready.
BLOCKS_AHEAD = 16
# How often a thread that waits looks whether it is still wanted.
CHECK_SECONDS = 0.1
LONGEST_JOIN_SECONDS = 2.0


class Stopped(GpnerError):
    """The job cannot or must not go on, and the same command can go on with it; the message says why."""


class Answering(Protocol):
    """Where answers come from: this process, or the queue.

    Attributes:
        workers: How many workers were seen at last; None where there are none, or nobody has asked yet.
        obstacle: What documents wait for, if it is not just their turn.
        is_stuck: Whether nothing would be answered if it stayed as it is.
        longest_stop_seconds: How long a stop waits for answers that are under way.
    """

    longest_stop_seconds: float

    @property
    def workers(self) -> int | None: ...  # noqa: D102 - above

    @property
    def obstacle(self) -> str | None: ...  # noqa: D102 - above

    @property
    def is_stuck(self) -> bool: ...  # noqa: D102 - above

    def answers(self, blocks: Iterator[Block], round_name: str) -> Iterator[Answered | None]:
        """Answer blocks in order; None now and then while there is nothing yet."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


class Output(Protocol):
    """Where answered blocks go."""

    def known(self, block: Block) -> Sequence[Answer] | None:
        """Answers that an earlier run has got already."""
        ...

    def write(self, block: Block, answers: Sequence[Answer], *, known: bool = False) -> None:
        """Take a block; they come in order."""
        ...


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
        self._stopped_at = 0.0
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
                    self._display.show(answering.workers, answering.obstacle)
                    if self._stopping.is_set() and (answering.is_stuck or self._waited_for(answering)):
                        break  # what was sent waits in the queue, and its answers for the next run
            finally:
                self._reading.stop()
                cast(Any, answers).close()

    def stop(self, reason: str) -> None:
        """Read no more; what is under way is finished and written."""
        self.stopped = self.stopped or reason
        self._stopped_at = time.monotonic()
        self._stopping.set()
        self._display.say(f"{reason}: finishing what is under way; once more stops at once")
        if self._reading is not None:
            self._reading.stop()

    def stop_at_signal(self, name: str) -> None:
        """Stop in order at the first signal, at once at the second, with KeyboardInterrupt."""
        if self._stopping.is_set():
            raise KeyboardInterrupt
        self.stop(f"stopped by {name}")

    def _waited_for(self, answering: Answering) -> bool:
        return time.monotonic() - self._stopped_at > answering.longest_stop_seconds

    def _write_known(self, blocks: Iterator[Block], output: Output) -> Iterator[Block]:
        """Write what an earlier run has got answers to already; returns the rest."""
        for block in blocks:
            answers = output.known(block)
            if answers is None:
                return _from(block, blocks)
            output.write(block, answers, known=True)
            self._display.skip(block, answers)
        return blocks

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


def _from(first: Block, others: Iterator[Block]) -> Iterator[Block]:
    """A block and those behind it, which are closed with this."""
    with closing(cast(Any, others)):
        yield first
        yield from others


class _End(Exception):
    """The iterator is exhausted."""


class Ahead(Generic[Step]):
    """An iterator over what another one gives, computed in a thread. Errors come out where they are taken.

    Args:
        steps: What runs in the thread.
        most: How many steps it may be ahead.
    """

    def __init__(self, steps: Iterator[Step], most: int) -> None:
        self._steps = steps
        self._ready: Queue[Step | Exception] = Queue(maxsize=most)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        step = self._take()
        if isinstance(step, Exception):
            self._closed.set()  # whoever asks again is at the end
            if isinstance(step, _End):
                raise StopIteration
            raise step
        return step

    def stop(self) -> None:
        """Compute no more; what is ready and was not taken yet is dropped."""
        self._closed.set()

    def close(self) -> None:
        """End the thread, unless it hangs in a read that nothing can interrupt; then it ends with the process."""
        self.stop()
        self._thread.join(LONGEST_JOIN_SECONDS)

    def _take(self) -> Step | Exception:
        while not self._closed.is_set():
            with suppress(Empty):
                # With a limit, because a wait without one cannot be interrupted by a signal everywhere.
                return self._ready.get(timeout=CHECK_SECONDS)
        return _End()

    def _run(self) -> None:
        try:
            for step in self._steps:
                if not self._put(step):
                    break
        except Exception as error:  # noqa: BLE001 - it is raised again in the other thread
            self._put(error)
        else:
            self._put(_End())
        finally:
            close = getattr(self._steps, "close", None)
            if close is not None:
                close()

    def _put(self, step: Step | Exception) -> bool:
        while not self._closed.is_set():
            with suppress(Full):
                self._ready.put(step, timeout=CHECK_SECONDS)
                return True
        return False
