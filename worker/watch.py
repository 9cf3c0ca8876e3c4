"""Sees to it that a worker never stands still silently: it works, or its process ends.

A process that ends is restarted by its supervisor, and the lease hands its documents to other workers. A process that
lives on with a dead thread or a hung device would hold them forever.

To stand still is one of three things. Loading a model, tokenizing a group of documents or running a pack takes longer
than its deadline. Or documents are held and for a deadline and a minute none of that was begun or ended. Or the intake
has not looked for documents for as long. Waiting for Redis is none of them: that ends when Redis is back. `/livez` says
so from three quarters of the time on, before the process ends at all of it.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

logger = logging.getLogger(__name__)

EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h: an internal fault, not a user's mistake
CHECK_SECONDS = 0.25
# A model is read from a disk far away, compiled, and run once, all within so many deadlines of a pack.
LOADING_PACKS = 4
# Longer than everything that may keep the pump waiting while all is well: a pack for company, a read of a Redis that
# has just gone away.
PATIENCE_SECONDS = 60.0
# `/livez` fails after this share of the time, so that a supervisor that looks sees why before the process is gone.
WARNING_SHARE = 0.75


@dataclass(frozen=True, slots=True)
class _Work:
    """Something under way, or the want of it: since when, and how long it may last, in seconds."""

    what: str
    since: float
    limit: float


class Watch:
    """Watches the model's work, the intake and the pump's threads.

    Args:
        deadline_seconds: How long a pack may take; a document of many packs gets as many times that.
        pack_tokens: Tokens of one pack; may be changed.
        holds_documents: Whether there is anything to do.
        waits_for_redis: Whether results cannot be committed, so that nothing can go on.
        clock: Seconds that never run backwards.
    """

    def __init__(
        self,
        deadline_seconds: float,
        pack_tokens: int,
        *,
        holds_documents: Callable[[], bool],
        waits_for_redis: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._deadline_seconds = deadline_seconds
        self.pack_tokens = pack_tokens
        self._holds_documents = holds_documents
        self._waits_for_redis = waits_for_redis
        self._clock = clock
        self._work: dict[int, _Work] = {}
        self._moved_at = clock()
        self._came_round_at: float | None = None
        # Whoever asks for the verdict moves the times on, and the intake's last word must not be lost by that.
        self._changing = threading.Lock()
        self._closed = threading.Event()
        self.problem: str | None = None

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Note that a model is being loaded and warmed up."""
        with self._under_way("loading the model", LOADING_PACKS):
            yield

    @contextmanager
    def tokenizing(self, documents: int, tokens: int) -> Iterator[None]:
        """Note that documents are being tokenized, of about so many tokens."""
        with self._under_way(f"tokenizing {documents} documents", tokens / self.pack_tokens):
            yield

    @contextmanager
    def forward(self, documents: int, tokens: int) -> Iterator[None]:
        """Note that a forward runs."""
        with self._under_way(f"a forward of {documents} documents, {tokens} tokens,", tokens / self.pack_tokens):
            yield

    def came_round(self) -> None:
        """Note that the intake is at work. It must come again until `stopped_reading`."""
        with self._changing:
            self._came_round_at = self._clock()

    def stopped_reading(self) -> None:
        """Note that the intake will not come again."""
        with self._changing:
            self._came_round_at = None

    def standing_still(self) -> str | None:
        """Say what stands still, and when the process ends because of it; None while everything moves."""
        if self.problem:
            return self.problem
        with self._changing:
            work, share = self._slowest()
        if work is None or share < WARNING_SHARE:
            return None
        return f"{work.what} has lasted {share * work.limit:.1f} s; the process ends after {work.limit:g} s of it"

    def start(self) -> None:
        """Begin to watch, from a thread of its own that needs nothing but the clock."""
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def thread(self, name: str, body: Callable[[], None]) -> threading.Thread:
        """Make a thread whose unexpected end by an exception ends the process."""

        def guarded() -> None:
            try:
                body()
            except BaseException as error:  # a panic in native code is no Exception
                if self._closed.is_set():
                    return
                logger.critical("thread %s failed", name, exc_info=True)
                self.end_process(f"thread {name} failed with {type(error).__name__}")

        return threading.Thread(target=guarded, name=name, daemon=True)

    def end_process(self, problem: str, code: int = EXIT_CODE) -> NoReturn:
        """End the process at once, whatever its threads are doing."""
        self.problem = problem
        logger.critical("ending the process: %s", problem)
        logging.shutdown()
        os._exit(code)

    def close(self) -> None:
        """Watch no more: the process ends in good order, and cuts off what some threads still wait for."""
        self._closed.set()

    @contextmanager
    def _under_way(self, what: str, packs: float) -> Iterator[None]:
        thread = threading.get_ident()
        with self._changing:
            self._work[thread] = _Work(what, self._clock(), self._deadline_seconds * max(1.0, packs))
        try:
            yield
        finally:
            with self._changing:
                del self._work[thread]
                self._moved_at = self._clock()

    def _slowest(self) -> tuple[_Work | None, float]:
        """What has used up most of its time, and which share of it."""
        now = self._clock()
        candidates = list(self._work.values())
        patience = self._deadline_seconds + PATIENCE_SECONDS
        waits = self._waits_for_redis()
        if waits or candidates or not self._holds_documents():
            self._moved_at = now
        else:
            candidates.append(_Work("holding documents that nothing is done with", self._moved_at, patience))
        came_round_at = self._came_round_at
        if waits and came_round_at is not None:
            self._came_round_at = now
        elif came_round_at is not None:
            candidates.append(_Work("not looking for documents", came_round_at, patience))
        shares = [((now - work.since) / work.limit, work) for work in candidates]
        share, slowest = max(shares, key=lambda pair: pair[0], default=(0.0, None))
        return slowest, share

    def _watch(self) -> None:
        while not self._closed.wait(CHECK_SECONDS):
            with self._changing:
                work, share = self._slowest()
            if work is not None and share > 1:
                self.end_process(
                    f"{work.what} is past its deadline of {work.limit:g} s; other workers will take its documents over"
                )
