"""How the worker's threads live through a time without Redis: a longer wait after each failure, and no end to it."""

import logging
import random
import threading
import time

logger = logging.getLogger(__name__)

FIRST_WAIT_SECONDS = 0.05
LONGEST_WAIT_SECONDS = 2.0


class Outage:
    """One thread's view of Redis. One line in the log when it goes, one when it is back.

    Args:
        doing: What the thread was doing, for the log.
        stopping: Ends a wait early.
    """

    def __init__(self, doing: str, stopping: threading.Event) -> None:
        self._doing = doing
        self._stopping = stopping
        self._wait_seconds = FIRST_WAIT_SECONDS
        self._since: float | None = None

    @property
    def lasts(self) -> bool:
        """Whether the last try failed."""
        return self._since is not None

    def wait(self, error: Exception) -> None:
        """Wait after a failure, twice as long as after the last one, and a random part less than others do."""
        if self._since is None:
            self._since = time.monotonic()
            logger.warning("%s: Redis does not answer as it should, trying again until it does: %s", self._doing, error)
        self._stopping.wait(self._wait_seconds * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, hides nothing
        self._wait_seconds = min(LONGEST_WAIT_SECONDS, 2 * self._wait_seconds)

    def end(self) -> None:
        """Note that Redis answers."""
        if self._since is None:
            return
        logger.info("%s: Redis answers again after %.1f s", self._doing, time.monotonic() - self._since)
        self._since = None
        self._wait_seconds = FIRST_WAIT_SECONDS


def in_one_line(record: logging.LogRecord) -> bool:
    """A filter for Celery's consumer, which logs eighty lines of traceback when Redis goes away; the last says all."""
    if str(record.msg).startswith("consumer: "):
        error = record.exc_info[1] if record.exc_info else None
        words = " ".join(record.getMessage().split())
        record.msg, record.args, record.exc_info = "%s", (f"{words} ({error})" if error else words,), None
    return True
