"""The commit thread: all results and burials that wait go to Redis at once, and none is dropped while Redis is away."""

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import chain

from gpner.errors import ServiceError
from worker.held import Holdings
from worker.metrics import Metrics
from worker.outage import Outage
from worker.outcomes import Done, Failed, Finished
from worker.queue import DocumentQueue, Outcome

logger = logging.getLogger(__name__)

# Packs that may wait here. Above this the device waits: Redis is away, and more results would only fill the memory.
WAITING_PACKS = 4
# Documents in one atomic script: Redis answers nobody else while it runs.
SCRIPT_DOCUMENTS = 256


class Committer:
    """Commits for one worker, in one thread.

    Args:
        queue: Where outcomes go.
        holdings: Documents leave it when they are committed.
        giving_up: Ends the retries; set when the worker must exit.

    Attributes:
        ended: Documents done or failed here since the start.
    """

    def __init__(
        self, queue: DocumentQueue, *, holdings: Holdings, metrics: Metrics, giving_up: threading.Event
    ) -> None:
        self._queue = queue
        self._holdings = holdings
        self._metrics = metrics
        self._giving_up = giving_up
        self._outage = Outage("committing", giving_up)
        self.ended = 0
        self._waiting: list[list[Finished]] = []
        self._committing = False
        self._closed = False
        self._changed = threading.Condition()

    @property
    def waits_for_redis(self) -> bool:
        """Whether the last commit failed and is being tried again."""
        return self._outage.lasts

    def put(self, finished: list[Finished]) -> None:
        """Hand over documents that ended; waits while too many packs wait."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < WAITING_PACKS)
            self._waiting.append(finished)
            self._changed.notify_all()

    def wait_until_committed(self, timeout_seconds: float) -> bool:
        """Return whether all that was handed over is committed, at the latest after the time given."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._committing, timeout_seconds)

    def close(self) -> None:
        """End `run` after everything that was handed over."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def run(self) -> None:
        """Commit until `close`, or until the worker gives up."""
        while packs := self._take():
            finished = list(chain.from_iterable(packs))
            for start in range(0, len(finished), SCRIPT_DOCUMENTS):
                self._commit(finished[start : start + SCRIPT_DOCUMENTS])

    def _take(self) -> list[list[Finished]]:
        """Wait for packs and return all that wait; none after `close`."""
        with self._changed:
            self._committing = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._closed)
            packs, self._waiting = self._waiting, []
            self._committing = True
            self._changed.notify_all()
            return packs

    def _commit(self, finished: Sequence[Finished]) -> None:
        now = time.time()
        outcomes = [end.outcome(self._queue.keys, now) for end in finished]
        started = time.perf_counter()
        ours = self._write(outcomes)
        if ours is None:
            return
        self._metrics.stages.add([time.perf_counter() - started], "commit")
        self._holdings.remove(end.entry for end in finished)
        self._count(finished, ours, now)

    def _write(self, outcomes: Sequence[Outcome]) -> list[bool] | None:
        """Commit, however long it takes; None if the worker gave up."""
        while not self._giving_up.is_set():
            try:
                ours = self._queue.commit(outcomes)
            except ServiceError as error:
                self._outage.wait(error)
            else:
                self._outage.end()
                return ours
        return None

    def _count(self, finished: Sequence[Finished], ours: Sequence[bool], now: float) -> None:
        """Count documents once: those that this worker was the first to commit."""
        ends: Counter[tuple[str, str]] = Counter()
        done: list[Done] = []
        for end, is_ours in zip(finished, ours, strict=True):
            if not is_ours:
                ends["taken_over", ""] += 1
            elif isinstance(end, Failed):
                ends["failed", end.reason] += 1
            else:
                done.append(end)
        ends["done", ""] = len(done)
        for (outcome, reason), documents in ends.items():
            self._metrics.documents.labels(outcome, reason).inc(documents)
        self.ended += sum(ours)
        self._count_done(done, now)

    def _count_done(self, done: Sequence[Done], now: float) -> None:
        tokens = [end.extraction.tokens for end in done]
        self._metrics.tokens.inc(sum(tokens))
        self._metrics.document_tokens.add(tokens)
        self._metrics.document_windows.add([end.extraction.windows for end in done])
        self._metrics.document_duration.add([max(0.0, now - end.entry.enqueued_seconds) for end in done])
        scores: defaultdict[str, list[float]] = defaultdict(list)
        for end in done:
            for entity in end.extraction.entities:
                scores[entity.label].append(entity.score)
        for label, found in scores.items():
            self._metrics.entities.labels(label).inc(len(found))
            self._metrics.entity_scores.add(found, label)
