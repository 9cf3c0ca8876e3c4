"""The intake: reads entries while there is room, takes over those of silent workers, and buries what cannot be read."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from gpner.errors import DocumentError, ServiceError
from worker.batcher import Batcher
from worker.budget import TokenBudget
from worker.connection import CONNECT_TIMEOUT_SECONDS
from worker.gate import Gate
from worker.held import Held, Holdings, TokenEstimate
from worker.metrics import Metrics
from worker.outage import LONGEST_WAIT_SECONDS, Outage
from worker.outcomes import Failed, FailureReason, Finished
from worker.protocol import Document, address_of, shorten
from worker.queue import DocumentQueue, Entry
from worker.settings import Settings
from worker.watch import Watch

logger = logging.getLogger(__name__)

READ_DOCUMENTS = 256
# How long a read waits in Redis, and so how long a stop may wait for it.
BLOCK_SECONDS = 0.5
# The same while documents are being taken over from other workers, one by one perhaps.
SHORT_BLOCK_SECONDS = 0.02
# While there is nothing to read, how often to ask for what other workers handed back or left behind.
IDLE_RECLAIM_SECONDS = 1.0
# How long after Redis is back another worker may still wait before it renews what it holds, or try to connect.
RENEWAL_SECONDS = LONGEST_WAIT_SECONDS + CONNECT_TIMEOUT_SECONDS


class Intake:
    """Reads for one worker, in one thread.

    A suspect, which may have killed workers, is alone in this one from its reading to its commit. So whoever dies with
    a worker dies in company twice at most, is done alone from the third delivery on, and is never buried for what
    another did.

    Args:
        settings: The deployment's settings.
        queue: Where entries come from.
        current_labels: Says what the model knows; a document that asks for others fails.
        holdings: Bounds what is read.
        budget: Says how much is tokenized at a time.
        batcher: Is told what is coming.
        estimate: Guesses a text's tokens.
        tokenize: Takes groups of documents on their way.
        finish: Takes documents that failed.
        wait_until_committed: Waits so many seconds at most until all that ended is written.
        renewing_since: Since when this worker's lease has been renewed without a failure, on the monotonic clock.
        gate: Keeps it from reading for a time.
        watch: Is told that it is at work.
        stopping: Ends the reading.
    """

    def __init__(
        self,
        settings: Settings,
        queue: DocumentQueue,
        *,
        current_labels: Callable[[], Sequence[str]],
        holdings: Holdings,
        budget: TokenBudget,
        batcher: Batcher,
        estimate: TokenEstimate,
        metrics: Metrics,
        tokenize: Callable[[list[Held]], None],
        finish: Callable[[list[Finished]], None],
        wait_until_committed: Callable[[float], bool],
        renewing_since: Callable[[], float],
        gate: Gate,
        watch: Watch,
        stopping: threading.Event,
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._current_labels = current_labels
        self._holdings = holdings
        self._budget = budget
        self._batcher = batcher
        self._estimate = estimate
        self._metrics = metrics
        self._tokenize = tokenize
        self._finish = finish
        self._wait_until_committed = wait_until_committed
        self._renewing_since = renewing_since
        self._gate = gate
        self._watch = watch
        self._stopping = stopping
        self._group_exists = False
        self._answer_was_lost = False
        self._heard_at = time.monotonic()
        self._unbroken_since = float("-inf")
        self._reclaimed_at = float("-inf")
        self._reclaiming = False
        self._suspects_wait = False
        # Begins careful, for the first documents may all be huge; rises at once and falls by halves.
        self._document_tokens = holdings.max_tokens / 4

    def run(self) -> None:
        """Read until `stopping` is set."""
        outage = Outage("reading", self._stopping)
        while not self._stopping.is_set():
            self._watch.came_round()
            if not self._may_read() or not (room := self._room()):
                continue
            try:
                entries = self._next_entries(room)
            except ServiceError as error:
                self._after_failure()
                outage.wait(error)
                continue
            outage.end()
            self._heard_at = time.monotonic()
            self._batcher.set_reading(bool(entries))
            self.accept(entries)
        self._watch.stopped_reading()
        self._batcher.set_reading(False)

    def _may_read(self) -> bool:
        """Wait at the gate; what is held meanwhile must not wait for company that does not come."""
        if self._gate.pass_through(0):
            return True
        self._batcher.set_reading(False)
        return self._gate.pass_through(BLOCK_SECONDS)

    def _room(self) -> int:
        """Wait for room; return how many tokens may be read, 0 if no room came."""
        if self._suspects_wait:
            self._batcher.set_reading(False)
            return self._holdings.max_tokens if self._holdings.wait_until_empty(BLOCK_SECONDS) else 0
        room = self._holdings.wait_for_room(0)
        if not room:
            self._batcher.set_reading(False)
            room = self._holdings.wait_for_room(BLOCK_SECONDS)
        return room

    def accept(self, entries: Sequence[Entry]) -> None:
        """Take entries on their way through this worker."""
        accepted: list[Held] = []
        failed: list[Finished] = []
        for entry in entries:
            # One that we hold comes again if this process was suspended for longer than the lease.
            if entry in self._holdings:
                continue
            held = self._check(entry)
            if isinstance(held, Failed):
                failed.append(held)
            else:
                accepted.append(held)
        if failed:
            self._finish(failed)
            if self._suspects_wait:
                # The next one may end this process, and a burial that is not written by then has to be made again.
                self._wait_until_committed(BLOCK_SECONDS)
        if accepted:
            waited = [max(0.0, held.read_seconds - held.entry.enqueued_seconds) for held in accepted]
            self._metrics.stages.add(waited, "queue")
            mean = sum(held.tokens for held in accepted) / len(accepted)
            self._document_tokens = max(mean, self._document_tokens / 2)
            self._holdings.add(accepted)
            self._batcher.expect(len(accepted))
            for group in _groups(accepted, self._budget.max_tokens // 2):
                self._tokenize(group)

    def _next_entries(self, room: int) -> list[Entry]:
        count = max(1, min(READ_DOCUMENTS, int(room / self._document_tokens)))
        max_bytes = self._estimate.characters(room)
        if not self._group_exists:
            self._queue.ensure()
            self._group_exists = True
        if self._answer_was_lost:
            self._hand_back_unheard()
            self._note_return()
        entries = self._reclaim(count, self._settings.lease_seconds / 3) or self._reclaim_suspect()
        if not entries and not (entries := self._queue.read(count, 0, max_bytes)):
            self._batcher.set_reading(False)
            entries = self._reclaim(count, IDLE_RECLAIM_SECONDS) or self._queue.read(
                count, SHORT_BLOCK_SECONDS if self._reclaiming else BLOCK_SECONDS, max_bytes
            )
        return entries

    def _reclaim(self, count: int, every_seconds: float) -> list[Entry]:
        """Take over what other workers left, if it is time to ask again, or if there was more a moment ago."""
        if not self._reclaiming and time.monotonic() - self._reclaimed_at < every_seconds:
            return []
        if self._others_may_be_late():
            return []
        entries, suspects_wait = self._queue.reclaim(count)
        self._suspects_wait |= suspects_wait
        self._reclaimed_at = time.monotonic()
        self._reclaiming = bool(entries)
        return self._taken_over(entries)

    def _reclaim_suspect(self) -> list[Entry]:
        """Take over one suspect if any waits and nothing is held; as long as there was one there may be another."""
        if not self._suspects_wait or len(self._holdings) or self._others_may_be_late():
            return []
        suspect = self._queue.reclaim_suspect()
        self._suspects_wait = suspect is not None
        return self._taken_over([suspect] if suspect else [])

    def _others_may_be_late(self) -> bool:
        """Whether Redis was away just now: everyone must have a turn to renew, or we would take what they work on."""
        return time.monotonic() - max(self._unbroken_since, self._renewing_since()) < RENEWAL_SECONDS

    def _taken_over(self, entries: list[Entry]) -> list[Entry]:
        if entries:
            logger.info("took over %d documents of workers that are gone or went silent", len(entries))
            # What a worker hands back in good order does not count as a delivery, and is no sign that one died.
            self._metrics.redelivered.inc(sum(entry.deliveries > 1 for entry in entries))
        return entries

    def _hand_back_unheard(self) -> None:
        """Hand back what Redis delivered in an answer that did not arrive; else it would lie there for a lease."""
        # A burial that is just being committed may be among it: the first commit wins, nothing is written twice.
        if released := self._queue.release_unknown(self._holdings.__contains__):
            logger.info("handed back %d documents that were delivered while Redis could not be heard", released)
        self._answer_was_lost = False

    def _note_return(self) -> None:
        """Note that Redis answers again, unless it was away so shortly that everyone could renew in time."""
        now = time.monotonic()
        if now - self._heard_at > min(self._settings.lease_seconds / 3, LONGEST_WAIT_SECONDS):
            self._unbroken_since = now

    def _after_failure(self) -> None:
        self._batcher.set_reading(False)
        self._group_exists = False
        self._answer_was_lost = True
        self._reclaiming = False

    def _check(self, entry: Entry) -> Held | Failed:
        if entry.deliveries > self._settings.max_deliveries:
            return self._fail(
                entry,
                "too_many_deliveries",
                "TooManyDeliveries",
                f"handed to workers {self._settings.max_deliveries} times and never finished: it probably killed them",
            )
        try:
            document = Document.from_fields(entry.fields, self._queue.keys, self._settings.max_document_characters)
        except DocumentError as error:
            return self._fail(entry, "malformed", "DocumentError", str(error))
        unknown = [label for label in document.labels or () if label not in self._current_labels()]
        if unknown:
            return self._fail(
                entry,
                "unknown_label",
                "DocumentError",
                f"labels must be among {', '.join(self._current_labels())}, was: {shorten(', '.join(unknown))}",
            )
        return Held(entry, document, self._estimate.guess(len(document.text)), time.time())

    def _fail(self, entry: Entry, reason: FailureReason, error_type: str, message: str) -> Failed:
        name = address_of(entry.fields, self._queue.keys).document_id or entry.entry_id
        logger.warning(
            "document %s (entry %s of %s) buried: %s",
            name,
            entry.entry_id,
            entry.stream,
            reason,
            extra={"documents": [name]},
        )
        return Failed(entry, reason, error_type, message)


def _groups(documents: Sequence[Held], tokens: int) -> Iterator[list[Held]]:
    """Cut documents into groups of about so many tokens, so that the device need not wait for the last of them."""
    group: list[Held] = []
    room = tokens
    for held in documents:
        group.append(held)
        room -= held.tokens
        if room <= 0:
            yield group
            group, room = [], tokens
    if group:
        yield group
