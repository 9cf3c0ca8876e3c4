"""A service that speaks Celery and never gives up: every call is sent under its id until Redis has taken it."""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from random import Random
from types import TracebackType
from typing import Self

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from tests.callers import call
from tests.chaos.ledger import Ledger
from tests.chaos.service import PATIENCE_SECONDS, Service
from tests.workers import wait_until

CALLS_PER_SECOND = 3.0
MOST_DOCUMENTS = 4
MOST_PIECES = 10
PAUSE_SECONDS = 0.05
# A little more than the time after which workers look for calls of dead ones.
LOOK_SECONDS = 6.0
# A popped call is noted within so many seconds, or it never will be.
NOTE_SECONDS = 0.5


class Caller:
    """Sends calls from a thread of its own within its `with` block.

    Args:
        service: Where they go.
        ledger: Where every call is noted.
        pieces: What texts are made of.
        seed: Decides texts, priorities and pauses.
    """

    def __init__(self, service: Service, ledger: Ledger, pieces: Sequence[str], seed: int) -> None:
        self._service = service
        self._ledger = ledger
        self._pieces = pieces
        self._random = Random(seed)
        self._finishing = threading.Event()
        self._giving_up = threading.Event()
        self._thread = threading.Thread(target=self._call_on, name="caller")

    def send(self, texts: list[str], priority: str) -> None:
        """Send one call, however long it takes: whoever sends it twice still gets one answer."""
        name = self._ledger.add_call(texts)
        while not self._giving_up.is_set():
            with suppress(OperationalError, RedisError, OSError):
                call(self._service.settings, texts, name, priority=priority)
                self._ledger.calls[name].accepted = True
                return
            self._giving_up.wait(PAUSE_SECONDS)

    def finish(self) -> None:
        """Send no more new calls, and return when the last one is accepted."""
        self._finishing.set()
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive(), "the last call was not accepted"

    def wait_for_answers(self) -> None:
        """Return when no call is waiting or under way any more. Those of dead workers come back at once here."""
        answered, deadline = 0, time.monotonic() + PATIENCE_SECONDS
        while self._is_anything_left():
            if self._answered() > answered:
                answered, deadline = self._answered(), time.monotonic() + PATIENCE_SECONDS
            else:  # those of living workers would be run once more each time
                self._let_time_pass()
            assert time.monotonic() < deadline, "there are calls without an answer"
            with suppress(AssertionError):
                wait_until(lambda: not self._is_anything_left(), LOOK_SECONDS)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._giving_up.set()
        self._finishing.set()
        self._thread.join()

    def _call_on(self) -> None:
        while not self._finishing.is_set():
            texts = [self._text() for _ in range(self._random.randint(1, MOST_DOCUMENTS))]
            self.send(texts, self._random.choice(("high", "normal", "bulk")))
            self._finishing.wait(self._random.expovariate(CALLS_PER_SECOND))

    def _text(self) -> str:
        return " ".join(self._random.choices(self._pieces, k=self._random.randint(1, MOST_PIECES)))

    def _is_anything_left(self) -> bool:
        """Whether calls are queued or under way; twice in a row not, for one might just be on its way between."""
        lists = [f"{self._service.settings.namespace}{name}" for name in ("tasks", "unacked", "unacked_index")]
        if self._service.store.exists(*lists):
            return True
        time.sleep(NOTE_SECONDS)
        return bool(self._service.store.exists(*lists))

    def _answered(self) -> int:
        pattern = f"{self._service.settings.namespace}celery-task-meta-*"
        return sum(1 for _ in self._service.store.scan_iter(pattern))

    def _let_time_pass(self) -> None:
        """Have it look as if the visibility timeout had passed since each call under way was taken."""
        namespace = self._service.settings.namespace
        index = f"{namespace}unacked_index"
        if under_way := self._service.store.zrange(index, 0, -1):
            self._service.store.zadd(index, dict.fromkeys(under_way, 0))
        # A worker that was killed while it looked would keep others from looking for five minutes.
        self._service.store.delete(f"{namespace}unacked_mutex")
