"""Sees to it that a worker never stands still silently: it works, or its process ends.

A process that ends is restarted by its supervisor, and the lease hands its documents to other workers. A process that
lives on with a dead thread or a hung device would hold them forever.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

logger = logging.getLogger(__name__)

EXIT_CODE = 70  # EX_SOFTWARE of sysexits.h: an internal fault, not a user's mistake
CHECK_SECONDS = 0.25


class Watch:
    """Watches the forward and the pump's threads.

    Args:
        deadline_seconds: How long a forward may take per pack; a document of many packs gets as many times that.
        pack_tokens: Tokens of one pack.
    """

    def __init__(self, deadline_seconds: float, pack_tokens: int) -> None:
        self._deadline_seconds = deadline_seconds
        self._pack_tokens = pack_tokens
        self._due: float | None = None
        self._what = ""
        self._closed = threading.Event()
        self.problem: str | None = None

    @contextmanager
    def forward(self, documents: int, tokens: int) -> Iterator[None]:
        """Note that a forward runs."""
        packs = max(1.0, tokens / self._pack_tokens)
        self._what = f"{documents} documents, {tokens} tokens"
        self._due = time.monotonic() + self._deadline_seconds * packs
        try:
            yield
        finally:
            self._due = None

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

    def _watch(self) -> None:
        while not self._closed.wait(CHECK_SECONDS):
            due = self._due
            if due is not None and time.monotonic() > due:
                self.end_process(
                    f"a forward of {self._what} is past its deadline of {self._deadline_seconds:g} s per batch; "
                    "other workers will take its documents over"
                )
