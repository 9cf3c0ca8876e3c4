"""Documents held in memory become packs, oldest first.

The rule: a pack starts from the oldest document and takes its neighbours in length up to the token budget. While the
device computes, the next pack is made ready as soon as there are tokens enough to fill it. When the device waits, what
is held goes at once if nothing more is on its way, and otherwise when the oldest document has waited
`max_wait_seconds`. So the device never waits while work is held, and a lone document never waits for company.
"""

import threading
import time
from collections.abc import Callable, Sequence

from gpner.packing import fill_pack
from worker.budget import TokenBudget
from worker.held import Held


class Batcher:
    """Tokenized documents in, packs out. Safe for threads; one of them takes.

    Args:
        budget: The most tokens in a pack.
        max_wait_seconds: How long the oldest document waits for a fuller pack while more is on its way.
        clock: Seconds that never run backwards.
    """

    def __init__(
        self, budget: TokenBudget, max_wait_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._budget = budget
        self._max_wait_seconds = max_wait_seconds
        self._clock = clock
        self._waiting: list[Held] = []
        self._waiting_tokens = 0
        self._prepared: list[Held] = []
        self._coming = 0
        self._reading = False
        self._interrupted = False
        self._closed = False
        self._changed = threading.Condition()

    def expect(self, documents: int) -> None:
        """Count documents that were read and are being tokenized; a negative number takes back those that failed."""
        with self._changed:
            self._coming += documents
            self._changed.notify_all()

    def set_reading(self, reading: bool) -> None:
        """Say whether the queue gave documents when it was last asked, so that more are probably there."""
        with self._changed:
            self._reading = reading
            self._changed.notify_all()

    def add(self, documents: Sequence[Held]) -> None:
        """Take documents that `expect` announced and that are tokenized now."""
        now = self._clock()
        with self._changed:
            self._coming -= len(documents)
            for held in documents:
                held.ready_at = now
            self._waiting += documents
            self._waiting_tokens += sum(held.n_window_tokens for held in documents)
            self._changed.notify_all()

    def put_back(self, documents: Sequence[Held]) -> None:
        """Take documents again that shared a failed run; they keep their age and are the next to go."""
        with self._changed:
            self._waiting[:0] = documents
            self._waiting_tokens += sum(held.n_window_tokens for held in documents)
            self._changed.notify_all()

    def take(self) -> list[Held]:
        """Wait for the next pack and return it; an empty one only after `close`, and once after `interrupt`."""
        with self._changed:
            while not self._closed and not self._interrupted:
                # After a reload, what others took over meanwhile was tokenized for another model.
                self._prepared = [held for held in self._prepared if not held.taken_over]
                if not self._prepared and self._is_due():
                    self._prepared = self._choose()
                if self._prepared:
                    pack, self._prepared = self._prepared, []
                    self._changed.notify_all()
                    return pack
                self._changed.wait(self._seconds_until_due())
            self._interrupted = False
            return []

    def prepare_until_closed(self) -> None:
        """Make full packs ready while the device computes. The body of the batcher's own thread."""
        with self._changed:
            while not self._closed:
                if not self._prepared and self._is_full():
                    self._prepared = self._choose()
                    self._changed.notify_all()
                self._changed.wait()

    def interrupt(self) -> None:
        """Let the thread that takes do something else once."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    def close(self) -> None:
        """End all waiting; what is held stays where the register of held documents finds it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _is_full(self) -> bool:
        return self._waiting_tokens >= self._budget.tokens

    def _is_due(self) -> bool:
        if not self._waiting:
            return False
        nothing_coming = self._coming == 0 and not self._reading
        return self._is_full() or nothing_coming or self._waited() >= self._max_wait_seconds

    def _waited(self) -> float:
        return self._clock() - self._waiting[0].ready_at

    def _seconds_until_due(self) -> float | None:
        return max(0.0, self._max_wait_seconds - self._waited()) if self._waiting else None

    def _choose(self) -> list[Held]:
        """Cut one pack out of the waiting documents; empty if all of them were taken over by other workers."""
        waiting = [held for held in self._waiting if not held.taken_over]
        pack: list[Held] = []
        if waiting:
            lengths = [held.n_window_tokens for held in waiting]
            pack = [waiting[index] for index in fill_pack(lengths, self._budget.tokens, first=0)]
        chosen = set(map(id, pack))
        self._waiting = [held for held in waiting if id(held) not in chosen]
        self._waiting_tokens = sum(held.n_window_tokens for held in self._waiting)
        return pack
