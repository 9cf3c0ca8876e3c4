"""The commit thread: results and burials to Redis, a pack at a time, and nothing is dropped while Redis is away."""

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from queue import Full, Queue

from gpner.errors import ServiceError
from worker.held import Holdings
from worker.metrics import Metrics
from worker.outage import Outage
from worker.outcomes import Failed, Finished
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
        self._waiting: Queue[list[Finished] | None] = Queue(maxsize=WAITING_PACKS)

    @property
    def waits_for_redis(self) -> bool:
        """Whether the last commit failed and is being tried again."""
        return self._outage.lasts

    def put(self, finished: list[Finished]) -> None:
        """Hand over documents that ended; waits while too many packs wait."""
        self._waiting.put(finished)

    def close(self, timeout_seconds: float) -> None:
        """End `run` after everything that was handed over, unless Redis is away and the packs pile up that long."""
        with suppress(Full):
            self._waiting.put(None, timeout=max(0.0, timeout_seconds))

    def run(self) -> None:
        """Commit until `close`, or until the worker gives up."""
        while (finished := self._waiting.get()) is not None:
            for start in range(0, len(finished), SCRIPT_DOCUMENTS):
                self._commit(finished[start : start + SCRIPT_DOCUMENTS])

    def _commit(self, finished: Sequence[Finished]) -> None:
        now = time.time()
        outcomes = [end.outcome(self._queue.keys, now) for end in finished]
        started = time.perf_counter()
        ours = self._write(outcomes)
        if ours is None:
            return
        self._metrics.commit_seconds.observe(time.perf_counter() - started)
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
        scores: defaultdict[str, list[float]] = defaultdict(list)
        tokens = 0
        for end, is_ours in zip(finished, ours, strict=True):
            if not is_ours:
                ends["taken_over", ""] += 1
            elif isinstance(end, Failed):
                ends["failed", end.reason] += 1
            else:
                ends["done", ""] += 1
                for entity in end.extraction.entities:
                    scores[entity.label].append(entity.score)
                self._metrics.document_windows.observe(end.extraction.windows)
                self._metrics.document_tokens.observe(end.extraction.tokens)
                self._metrics.document_duration.observe(max(0.0, now - end.entry.enqueued_seconds))
                tokens += end.extraction.tokens
        self._metrics.tokens.inc(tokens)
        self.ended += sum(ours)
        for (outcome, reason), documents in ends.items():
            self._metrics.documents.labels(outcome, reason).inc(documents)
        for label, found in scores.items():
            self._metrics.entities.labels(label).inc(len(found))
            self._metrics.entity_scores.add(label, found)
