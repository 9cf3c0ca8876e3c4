"""What other services import: documents in, entities out. Needs neither torch nor Celery.

with Client("redis://127.0.0.1:6379/0") as client:
    result = client.extract("Ada met Babbage in London.")
    print(result.entities)
"""

import threading
import time
import uuid
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from types import TracebackType
from typing import Any, Self

import redis
from pydantic import JsonValue, ValidationError

from gpner.errors import DocumentError, DocumentFailed, QueueFull, ResultTimeout, ServiceError
from worker.connection import connect, explaining
from worker.protocol import Document, Keys, Priority
from worker.queue import load_script
from worker.results import Answer, Failure, Result
from worker.settings import Settings, load_settings
from worker.whereabouts import whereabouts

__all__ = ["Client", "Document", "Failure", "Result"]

# One script adds so many documents, or so many bytes: enough to make the round trip cheap, and short enough that other
# clients of this Redis do not notice.
CHUNK_DOCUMENTS = 256
CHUNK_BYTES = 1_000_000
# Looking for a result: soon at first, then every quarter of a second.
FIRST_LOOK_SECONDS = 0.005
SLOWEST_LOOK_SECONDS = 0.25
# One blocking read of a reply stream; well under the connection's timeout.
BLOCK_SECONDS = 2.0
# For so long replicas are waited for. They confirm within milliseconds; also well under the connection's timeout.
REPLICAS_SECONDS = 2.0
# Of so many documents this client remembers where they are, to explain a timeout.
REMEMBERED_PLACES = 10_000

Answers = Generator[Result | Failure, None, None]


class Client:
    """A producer of documents and a reader of results. Safe for threads; nothing is sent before the first call.

    Args:
        settings: The service's settings, or just the address of Redis; by default what the environment says.
        replicas: How many replicas of Redis must have what is submitted too, so that the loss of the master loses none
            of it. If fewer have after 2 s, the submit raises `ServiceError` as one that was cut off; it is queued.

    Every method raises `ServiceError` if Redis cannot be reached. A `submit` that was cut off may or may not have been
    accepted; submitting again with the same id does no harm but work, for both results stand under that id.
    """

    def __init__(self, settings: Settings | str | None = None, *, replicas: int = 0) -> None:
        if not isinstance(settings, Settings):
            settings = load_settings() if settings is None else load_settings(redis_url=settings)
        self.settings = settings
        self.keys = Keys(settings.namespace)
        self.redis = connect(settings.redis_url)
        self._replicas = replicas
        self._submit = load_script(self.redis, "submit")
        self._places: dict[str, tuple[str, str]] = {}
        self._lock = threading.Lock()

    def submit(
        self,
        text: str,
        *,
        id: str | None = None,  # noqa: A002 - the field's name on the wire
        priority: Priority = "normal",
        meta: JsonValue = None,
        labels: Iterable[str] | None = None,
        reply_to: str | None = None,
    ) -> str:
        """Enqueue one document and return its id.

        Args:
            text: The document, whole.
            id: Names its result; a random one unless given. A second document of the same id overwrites the result.
            priority: `high` overtakes `normal`, which overtakes `bulk`; none of them waits forever.
            meta: Any JSON data; handed back with the result.
            labels: Only entities of these labels are wanted.
            reply_to: A stream that gets the result too, named `Client.keys.reply("anything")`.

        Raises:
            DocumentError: If a field breaks its rule.
            QueueFull: If the queue is at its limit; nothing was added.
        """
        document = Document.new(text, id=id, meta=meta, labels=labels, reply_to=reply_to)
        return self.submit_many([document], priority=priority)[0]

    def submit_many(self, documents: Iterable[str | Document], *, priority: Priority = "normal") -> list[str]:
        """Enqueue documents, a few hundred in one step, and return their ids.

        All are checked before the first is sent. They are accepted in order, as many as there is room for.

        Args:
            documents: Texts, or documents made with `Document.new`.
            priority: As in `submit`.

        Raises:
            DocumentError: If one breaks a rule; nothing was added.
            QueueFull: If the queue came to its limit; its `accepted` says which were added, the first ones.
        """
        _refuse_one_text(documents)
        ready = [document if isinstance(document, Document) else Document.new(document) for document in documents]
        for document in ready:
            document.check(self.keys, self.settings.max_document_characters)
        self._submit_checked(ready, priority)
        return [document.id for document in ready]

    def submit_call(self, documents: Sequence[Document], *, note: str, before: int, priority: Priority) -> int:
        """Enqueue those documents of a call of the Celery task that no run of the call has enqueued; none twice.

        Args:
            documents: Checked ones, all that come after the first `before`.
            note: The key under which Redis notes how many of the call's were accepted.
            before: How many of the call's come before these.
            priority: As in `submit`.

        Returns:
            How many of these are accepted by now, in whatever run; 0 if there was room for none.
        """
        try:
            self._submit_checked(documents, priority, note, before)
        except QueueFull as error:
            return len(error.accepted)
        return len(documents)

    def result(self, document_id: str, timeout_seconds: float | None = None) -> Result:
        """Wait for the result of a document that anybody submitted; one of an earlier document of this id counts too.

        Args:
            document_id: Its id.
            timeout_seconds: How long to wait; 0 only looks, None waits for ever.

        Raises:
            ResultTimeout: If there is none in time; the document is still processed.
            DocumentFailed: If the document failed.
        """
        started = time.monotonic()
        pause = FIRST_LOOK_SECONDS
        while True:
            with explaining(self.settings.redis_url):
                payload = self.redis.get(self.keys.result(document_id))
            if payload is not None:
                return _or_raise(_open(payload))
            waited = time.monotonic() - started
            if timeout_seconds is not None and waited >= timeout_seconds:
                raise self._timeout(document_id, timeout_seconds)
            time.sleep(pause if timeout_seconds is None else min(pause, timeout_seconds - waited))
            pause = min(SLOWEST_LOOK_SECONDS, 1.5 * pause)

    def extract(self, text: str, timeout_seconds: float = 30) -> Result:
        """Enqueue one document and wait for its entities.

        Raises:
            ResultTimeout: If there are none in time; the document is still processed, the message names its id.
            DocumentFailed: If the document failed.
        """
        with closing(self.extract_many([text], timeout_seconds)) as answers:
            return _or_raise(next(answers))

    def extract_many(self, texts: Iterable[str], timeout_seconds: float = 30) -> Answers:
        """Enqueue documents at once, and hand out their results in the same order as they come.

        One that fails costs the others nothing: its `Failure` stands in its place.

        Args:
            texts: The documents.
            timeout_seconds: The longest wait without any new result.

        Raises:
            QueueFull: As in `submit_many`.
            ResultTimeout: If no new result came for so long; the documents are still processed.
        """
        _refuse_one_text(texts)
        reply_to = self.keys.reply(uuid.uuid4().hex)
        ids = self.submit_many([Document.new(text, reply_to=reply_to) for text in texts])
        return self._replies(reply_to, ids, timeout_seconds)

    def close(self) -> None:
        """Close the connections."""
        self.redis.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit_checked(
        self, documents: Sequence[Document], priority: Priority, note: str | None = None, before: int = 0
    ) -> None:
        """Enqueue documents chunk by chunk.

        Raises:
            QueueFull: As in `submit_many`.
        """
        ids = [document.id for document in documents]
        entries = [document.to_fields() for document in documents]
        for start, stop in _chunks(entries):
            unfinished, accepted = self._add(ids[start:stop], entries[start:stop], priority, note, before + start)
            if start + accepted < stop:
                raise QueueFull(
                    f"the queue may hold {self.settings.max_queued_documents} unfinished documents and holds "
                    f"{unfinished}: accepted {start + accepted} of {len(ids)}; wait, start more workers, "
                    "or raise GPNER_MAX_QUEUED_DOCUMENTS",
                    ids[: start + accepted],
                )

    def _add(
        self, ids: list[str], entries: list[dict[bytes, bytes]], priority: Priority, note: str | None, before: int
    ) -> tuple[int, int]:
        """Add one chunk; the number of unfinished documents then, and how many of the chunk are accepted."""
        stream = self.keys.stream(priority)
        keys = self.keys.streams if note is None else (*self.keys.streams, note)
        lifetime = 0 if note is None else self.settings.result_ttl_seconds
        limit = self.settings.max_queued_documents
        arguments: list[Any] = [limit, self.keys.streams.index(stream) + 1, lifetime, before]
        for fields in entries:
            arguments += [2 * len(fields), *(part for pair in fields.items() for part in pair)]
        with explaining(self.settings.redis_url), self._connection() as connection:
            unfinished, accepted, *added = self._submit(keys=keys, args=arguments, client=connection)
            self._remember(ids[accepted - len(added) : accepted], stream, added)
            if self._replicas and added:
                self._wait_for_replicas(connection)
        return unfinished + len(added), accepted

    def _connection(self) -> AbstractContextManager[redis.Redis]:
        """The pool, or a single connection where replicas are asked, who answer for its own writes alone."""
        if not self._replicas:
            return nullcontext(self.redis)
        return self.redis.client()  # type: ignore[no-any-return,no-untyped-call]  # redis-py has none

    def _remember(self, ids: list[str], stream: str, entry_ids: list[bytes]) -> None:
        with self._lock:
            self._places.update((name, (stream, entry.decode())) for name, entry in zip(ids, entry_ids, strict=True))
            while len(self._places) > REMEMBERED_PLACES:
                del self._places[next(iter(self._places))]

    def _wait_for_replicas(self, connection: redis.Redis) -> None:
        """Return when enough replicas have what this connection wrote.

        Raises:
            ServiceError: If they have not in time.
        """
        replicas = connection.wait(self._replicas, round(1000 * REPLICAS_SECONDS))
        if replicas < self._replicas:
            raise ServiceError(
                f"at least {self._replicas} replicas of Redis must have a document within {REPLICAS_SECONDS:g} s, "
                f"{replicas} had: it is queued, and lost if the master is; submit it again under the same id, or see "
                "`INFO replication`"
            )

    def _replies(self, reply_to: str, ids: list[str], timeout_seconds: float) -> Answers:
        waiting: dict[str, Result | Failure] = {}
        last = "0"
        try:
            for document_id in ids:
                deadline = time.monotonic() + timeout_seconds
                while document_id not in waiting:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise self._timeout(document_id, timeout_seconds)
                    for entry_id, payload in self._read_replies(reply_to, last, min(left, BLOCK_SECONDS)):
                        answer = _open(payload)
                        waiting[answer.id] = answer
                        last = entry_id
                        deadline = time.monotonic() + timeout_seconds
                yield waiting.pop(document_id)
        finally:
            with explaining(self.settings.redis_url):
                self.redis.delete(reply_to)

    def _read_replies(self, reply_to: str, last: str, block_seconds: float) -> list[tuple[str, bytes]]:
        streams: dict[Any, Any] = {reply_to: last}
        found: Any
        with explaining(self.settings.redis_url):
            found = self.redis.xread(streams, count=CHUNK_DOCUMENTS, block=max(1, round(block_seconds * 1000)))
        return [(entry.decode(), fields[b"result"]) for _, rows in found for entry, fields in rows]

    def _timeout(self, document_id: str, timeout_seconds: float) -> ResultTimeout:
        with explaining(self.settings.redis_url):
            place = self._places.get(document_id)
            known = whereabouts(self.redis, self.keys, place, self.settings.lease_seconds)
        return ResultTimeout(f"no result for document {document_id} after {timeout_seconds:g} s: {known}")


def _refuse_one_text(documents: object) -> None:
    """A string is a sequence of strings too: without this each of its characters would become a document."""
    if isinstance(documents, str):
        raise DocumentError("documents must be several, was one string; put it into a list")


def _open(payload: Any) -> Result | Failure:
    try:
        return Answer.validate_json(payload)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
        raise ServiceError(f"a result must be JSON of protocol version 1, was not ({reason}); upgrade gpner") from None


def _or_raise(answer: Result | Failure) -> Result:
    if isinstance(answer, Failure):
        raise DocumentFailed(answer.id, answer.error.type, answer.error.message)
    return answer


def _chunks(entries: Sequence[dict[bytes, bytes]]) -> Iterator[tuple[int, int]]:
    """Cut a sequence into runs of limited number and size; an entry larger than a chunk is alone."""
    start, size = 0, 0
    for i, fields in enumerate(entries):
        length = sum(map(len, fields.values()))
        if i > start and (i - start == CHUNK_DOCUMENTS or size + length > CHUNK_BYTES):
            yield start, i
            start, size = i, 0
        size += length
    if entries:
        yield start, len(entries)
