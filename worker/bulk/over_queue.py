"""The documents of a job through the service's queue: bounded in flight, each answered, whatever happens to Redis.

Answers come through one stream of the job. On the wire a document goes by a digest of its place and text, so its own
id may be anything, and an answer that an earlier run was killed waiting for is found again. A document is lost only if
it is neither in the queue nor answered; then, and only then, it is sent again.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Any

from pydantic import ValidationError

from gpner.errors import ConfigError, QueueFull, ServiceError
from worker.bulk.room import AHEAD_SECONDS, Room
from worker.bulk.rows import Answer as RowAnswer
from worker.bulk.rows import Answered, Block, Found, Problem, Row, plain
from worker.client import Client
from worker.connection import explaining
from worker.outage import Outage
from worker.presence import reports
from worker.protocol import Document
from worker.queue import load_script
from worker.results import Answer, Failure, Result
from worker.settings import Settings

logger = logging.getLogger(__name__)

# Rows that are problems take no room; so many blocks may be open all the same.
MOST_BLOCKS = 1024
# A wait for answers; it also bounds how long a signal goes unnoticed.
BLOCK_SECONDS = 0.5
READ_ENTRIES = 1000
FULL_SECONDS = 0.2
# After so long without an answer, look whether documents were lost; later ever less often, for work may be slow.
QUIET_SECONDS = 5.0
LONGEST_QUIET_SECONDS = 300.0
# Entries that one call looks through: few, because each comes with its text.
PAGE_ENTRIES = 20
# How often to ask which workers there are, and how old their last word may be; an answer is a word as well.
WORKERS_SECONDS = 2.0
STALE_SECONDS = 5.0

NO_WORKER = "no worker is to be seen: documents wait for one; start it with `gpner-worker start`"
REDIS_AWAY = "Redis does not answer: documents wait until it does"
QUEUE_FULL = "the queue holds GPNER_MAX_QUEUED_DOCUMENTS: documents wait for room in it"


class OverQueue:
    """Answers through the service's queue; see `Answering`. Used by one thread.

    Whoever takes no more answers loses none: the workers go on, and the next run of the job finds what they did.

    Args:
        settings: Where Redis is.
        job: Names the job's answers; no two jobs may share it.
        check_model: Gets name and revision of the model of answers; raises `ConfigError` if it must not be that one.

    Raises:
        ServiceError: If Redis cannot be reached. Later such times are lived through.
    """

    longest_stop_seconds = AHEAD_SECONDS

    def __init__(self, settings: Settings, job: str, check_model: Callable[[str, str], None]) -> None:
        self.workers: int | None = None
        self._client = Client(settings)
        self._redis = self._client.redis
        with explaining(settings.redis_url):
            self._redis.ping()
        self._prefix = f"bulk:{job}:"
        self._salt = b""
        self._replies = self._client.keys.reply(f"bulk:{job}")
        self._submitted = load_script(self._redis, "submitted")
        self._check_model = check_model
        self._refused: ConfigError | None = None
        self._outage = Outage("bulk", threading.Event())
        self._room = Room()
        self._is_full = False
        self._waiting: dict[str, tuple[Row, Document]] = {}  # sent or to be sent, and not written down yet
        self._unsent: deque[Document] = deque()
        self._answers: dict[str, tuple[Result | Failure, bytes]] = {}  # by id, with the entry of the answer
        self._in_queue: set[str] = set()  # unfinished in the queue when last looked
        self._open: deque[tuple[Block, list[str | None]]] = deque()
        self._last = b"0"
        self._heard = self._asked = time.monotonic()
        self._answered_at = float("-inf")
        self._quiet = QUIET_SECONDS
        self._suspicious = self._first_look = True

    @property
    def obstacle(self) -> str | None:
        """What documents wait for, if it is not just their turn."""
        if self._outage.lasts:
            return REDIS_AWAY
        if self.workers == 0 and time.monotonic() - self._answered_at > STALE_SECONDS:
            return NO_WORKER
        return QUEUE_FULL if self._is_full else None

    @property
    def is_stuck(self) -> bool:
        """Whether there is no worker, or no Redis."""
        return self.obstacle in (NO_WORKER, REDIS_AWAY)

    def answers(self, blocks: Iterator[Block], round_name: str) -> Iterator[Answered | None]:
        """Hand out blocks with their answers, in order, and None now and then; what is taken counts as written down.

        Args:
            blocks: What to answer.
            round_name: Tells tries of a document apart: a second one must not take the first one's answer.

        Raises:
            ConfigError: If a model answers that must not.
        """
        self._salt = round_name.encode()
        self._suspicious = self._first_look = True  # nothing is known yet of what an earlier run has sent
        more = True
        while more or self._open:
            block = None
            if more and self._room.is_left(time.monotonic()) and len(self._open) < MOST_BLOCKS:
                block = next(blocks, None)
                more = block is not None
            if block is not None:
                self._take(block)
            self._step(wait=block is None and bool(self._open) and not self._is_ready())
            while self._is_ready():
                yield self._open[0][0], self._answered(*self._open[0])
                self._forget(self._open.popleft()[1])
            yield None
        self._clear()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _clear(self) -> None:
        """Once all that was sent is answered: leave nothing in Redis. If it is away, what is left goes by itself."""
        with suppress(ServiceError), explaining(self._client.settings.redis_url):
            self._delete([(name, entry) for name, (_, entry) in self._answers.items()])
            self._redis.delete(self._replies)
        self._answers.clear()

    def _take(self, block: Block) -> None:
        ids: list[str | None] = []
        for item in block.items:
            name = None
            if isinstance(item, Row):
                name = self._prefix + self._digest(item)
                document = Document.new(item.text, id=name, reply_to=self._replies)
                self._room.take(item)
                self._waiting[name] = item, document
                self._unsent.append(document)
            ids.append(name)
        self._open.append((block, ids))

    def _digest(self, row: Row) -> str:
        digest = blake2b(self._salt, digest_size=16)
        for part in (row.source, str(row.row), row.text):
            digest.update(b"\0" + part.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def _step(self, *, wait: bool) -> None:
        """Send what is to be sent and read what is there; lives through any time without Redis."""
        try:
            if self._suspicious or time.monotonic() - self._heard > self._quiet:
                self._look_for_lost()
            self._send()
            self._read(BLOCK_SECONDS if wait else 0)
            self._ask_for_workers()
        except ServiceError as error:
            self._suspicious = True  # what was under way may or may not have arrived
            self._outage.wait(error)
        else:
            self._outage.end()
        if self._refused is not None:
            raise self._refused

    def _send(self) -> None:
        batch = []
        while self._unsent:
            document = self._unsent.popleft()
            if document.id in self._waiting and document.id not in self._answers and document.id not in self._in_queue:
                batch.append(document)
        self._is_full = False
        try:
            if batch:
                self._client.submit_many(batch, priority="bulk")
        except QueueFull as error:
            self._unsent.extend(batch[len(error.accepted) :])
            self._is_full = not error.accepted
            if self._is_full:
                time.sleep(FULL_SECONDS)

    def _read(self, block_seconds: float) -> bool:
        """Take the answers that are there, some of them if they are many; whether there were any."""
        milliseconds = max(1, round(block_seconds * 1000)) if block_seconds else None
        streams: dict[Any, Any] = {self._replies: self._last}
        found: Any
        with explaining(self._client.settings.redis_url):
            found = self._redis.xread(streams, count=READ_ENTRIES, block=milliseconds)
        now = time.monotonic()
        unwanted: list[tuple[str | None, bytes]] = []
        for entry, fields in (row for _, rows in found for row in rows):
            self._last = entry
            answer = _parse(fields)
            if answer is None:
                unwanted.append((None, entry))
            elif self._is_wanted(answer):
                self._answers[answer.id] = answer, entry
                self._in_queue.discard(answer.id)
                self._room.note_answer(now)
            else:
                unwanted.append((answer.id, entry))
        if found:
            self._heard = self._answered_at = now
            self._quiet = QUIET_SECONDS
        self._delete(unwanted)
        return bool(found)

    def _is_wanted(self, answer: Result | Failure) -> bool:
        """Whether an answer is to be kept: not a second one, of a document that is written down, nor of another model.

        What an earlier run was killed waiting for is wanted before its document is read again.
        """
        known = any(answer.id in names for names in (self._waiting, self._in_queue, self._answers))
        if not known and not (self._first_look and answer.id.startswith(self._prefix)):
            return False
        if isinstance(answer, Result):
            try:
                self._check_model(answer.model, answer.revision)
            except ConfigError as error:
                # What came after an earlier run had stopped for this is thrown away without a word.
                self._refused = None if self._first_look else error
                return False
        return True

    def _look_for_lost(self) -> None:
        """Find out where everything is: what is neither unfinished in the queue nor answered is to be sent again."""
        self._in_queue = set(self._unfinished())
        self._last = b"0"  # Redis may have been emptied, or its clock set back
        while self._read(0):
            pass
        self._unsent = deque(document for _, document in self._waiting.values())
        self._suspicious = self._first_look = False
        self._heard = time.monotonic()
        self._quiet = min(LONGEST_QUIET_SECONDS, 2 * self._quiet)

    def _unfinished(self) -> Iterator[str]:
        start = "-"
        while start != "(":
            with explaining(self._client.settings.redis_url):
                arguments: list[str | int] = [start, PAGE_ENTRIES, self._prefix]
                last, *found = self._submitted(keys=[self._client.keys.bulk], args=arguments)
            yield from (name.decode() for name in found)
            start = f"({last.decode()}"

    def _is_ready(self) -> bool:
        return bool(self._open) and all(name is None or name in self._answers for name in self._open[0][1])

    def _answered(self, block: Block, ids: Sequence[str | None]) -> list[RowAnswer]:
        answers: list[RowAnswer] = []
        for item, name in zip(block.items, ids, strict=True):
            if isinstance(item, Problem):
                answers.append(item)
            elif name is not None:
                answers.append(_of_row(item, self._answers[name][0]))
        return answers

    def _forget(self, ids: Sequence[str | None]) -> None:
        """Delete what this process and Redis hold of documents that are written down."""
        done = [(name, self._answers.pop(name)[1]) for name in ids if name is not None]
        for name, _ in done:
            self._room.give_back(self._waiting.pop(name)[0])
        try:
            self._delete(done)
        except ServiceError as error:
            self._suspicious = True
            self._outage.wait(error)

    def _delete(self, answered: Sequence[tuple[str | None, bytes]]) -> None:
        """Delete answers, and the results beside them: of this job alone, whatever an answer says it belongs to."""
        if not answered:
            return
        ours = [name for name, _ in answered if name is not None and name.startswith(self._prefix)]
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.xdel(self._replies, *(entry for _, entry in answered))
        if ours:
            pipeline.unlink(*map(self._client.keys.result, ours))
        with explaining(self._client.settings.redis_url):
            pipeline.execute()

    def _ask_for_workers(self) -> None:
        now = time.monotonic()
        if self.workers is not None and now - self._asked < WORKERS_SECONDS:
            return
        self._asked = now
        with explaining(self._client.settings.redis_url):
            said = reports(self._redis, self._client.keys)
        self.workers = sum(silent < STALE_SECONDS for _, silent in said.values())


def _parse(fields: dict[bytes, bytes]) -> Result | Failure | None:
    try:
        return Answer.validate_json(fields.get(b"result", b""))
    except ValidationError:
        logger.warning("an answer must be JSON of protocol version 1, was not; upgrade gpner if the workers are newer")
        return None


def _of_row(row: Row, answer: Result | Failure) -> RowAnswer:
    if isinstance(answer, Result):
        return Found(plain(answer.entities), answer.tokens, answer.windows, answer.model, answer.revision)
    return Problem(row.id, row.source, row.row, answer.error.type, answer.error.message)
