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

# From among how many packs' worth of the oldest documents a pack is chosen: what a worker holds unless told otherwise.
# Choosing from all of many more would cost more than the pack.
CHOICE_PACKS = 4


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
        self._lock = threading.Lock()
        # Two, so that nobody is woken up for what the other waits for: that happens many times a pack.
        self._may_take = threading.Condition(self._lock)
        self._may_prepare = threading.Condition(self._lock)

    def expect(self, documents: int) -> None:
        """Count documents that were read and are being tokenized; a negative number takes back those that failed."""
        with self._lock:
            self._coming += documents
            if not self._coming:
                self._may_take.notify()

    def set_reading(self, reading: bool) -> None:
        """Say whether the queue gave documents when it was last asked, so that more are probably there."""
        with self._lock:
            self._reading = reading
            if not reading:
                self._may_take.notify()

    def add(self, documents: Sequence[Held]) -> None:
        """Take documents that `expect` announced and that are tokenized now."""
        now = self._clock()
        for held in documents:
            held.ready_at = now
        with self._lock:
            self._coming -= len(documents)
            self._waiting += documents
            self._note_more(documents)

    def put_back(self, documents: Sequence[Held]) -> None:
        """Take documents again that shared a failed run; they keep their age and are the next to go."""
        with self._lock:
            self._waiting[:0] = documents
            self._note_more(documents)

    def take(self) -> list[Held]:
        """Wait for the next pack and return it; an empty one only after `close`, and once after `interrupt`."""
        with self._lock:
            while not self._closed and not self._interrupted:
                if not self._prepared and self._is_due():
                    self._prepared = self._choose()
                if self._prepared:
                    pack, self._prepared = self._prepared, []
                    self._let_prepare()
                    return pack
                self._may_take.wait(self._seconds_until_due())
            self._interrupted = False
            return []

    def prepare_until_closed(self) -> None:
        """Make full packs ready while the device computes. The body of the batcher's own thread."""
        with self._lock:
            while not self._closed:
                if not self._prepared and self._is_full():
                    self._prepared = self._choose()
                    self._may_take.notify()
                self._may_prepare.wait()

    def interrupt(self) -> None:
        """Let the thread that takes do something else once."""
        with self._lock:
            self._interrupted = True
            self._may_take.notify()

    def close(self) -> None:
        """End all waiting; what is held stays where the register of held documents finds it."""
        with self._lock:
            self._closed = True
            self._may_take.notify()
            self._may_prepare.notify()

    def _note_more(self, documents: Sequence[Held]) -> None:
        self._waiting_tokens += sum(held.n_window_tokens for held in documents)
        self._may_take.notify()
        self._let_prepare()

    def _let_prepare(self) -> None:
        if not self._prepared and self._is_full():
            self._may_prepare.notify()

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
        """Cut one pack out of the oldest of the waiting documents, of which there is one at least."""
        lengths: list[int] = []
        tokens = 0
        for held in self._waiting:
            lengths.append(held.n_window_tokens)
            tokens += lengths[-1]
            if tokens >= CHOICE_PACKS * self._budget.tokens:
                break
        chosen = fill_pack(lengths, self._budget.tokens, first=0)
        pack = [self._waiting[index] for index in chosen]
        for index in sorted(chosen, reverse=True):
            del self._waiting[index]
        self._waiting_tokens -= sum(lengths[index] for index in chosen)
        return pack
