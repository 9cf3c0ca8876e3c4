"""The Celery lane: the task `gpner.extract`, for services that speak Celery already.

It is a client of the document queue like any other. So its documents have the queue's promise, share batches with all
others, and may be read by any worker; the task only waits for them. It holds nothing that a kill could lose: its
documents' ids are made of its own, and Redis knows how many of them were accepted, so whoever runs it again goes on
where it stopped.
"""

import hashlib
import json
import logging
import random
import re
import time
from collections.abc import Callable
from functools import cache
from typing import Any, cast

from celery import Task, shared_task
from celery.exceptions import Reject

from gpner.errors import DocumentError, QueueFull, ServiceError
from worker.broker import Request, is_working
from worker.client import Client
from worker.connection import explaining
from worker.protocol import Document, Priority, shorten

logger = logging.getLogger(__name__)

MAX_DOCUMENTS = 64
FIELDS = ("text", "id", "meta", "labels")
# The share of its visibility timeout after which a waiting message is put back. Later the transport would do it by
# itself, and two workers would run it at once.
WAIT_SHARE = 2 / 3
# Looking for results: soon at first, then every quarter of a second.
FIRST_LOOK_SECONDS = 0.005
SLOWEST_LOOK_SECONDS = 0.25
# Between two attempts while the queue is full, or Redis away.
PAUSE_SECONDS = 2.0

Answer = dict[str, Any]

# Task ids that can be a part of a document's id and of a key, as Celery makes them. Others stand there as a hash.
_PLAIN_ID = re.compile(r"[\w.-]{1,128}", re.ASCII)


@shared_task(  # type: ignore[untyped-decorator]  # celery has no types
    name="gpner.extract", bind=True, throws=(DocumentError,), Request=f"{Request.__module__}:{Request.__name__}"
)
def extract(task: Task, documents: list[str | dict[str, Any]], priority: Priority = "normal") -> list[Answer]:
    """Extract the entities of up to 64 documents.

    Args:
        task: The running task, from Celery.
        documents: Texts, or objects of `text` and, if wanted, `id`, `meta` and `labels`.
        priority: `high`, `normal` or `bulk`, as everywhere.

    Returns:
        A result or failure for each document, in their order, as the JSON that it is on the queue too.

    Raises:
        DocumentError: If the call breaks a rule; nothing was enqueued, and it is not tried again.
    """
    call = Call(_client(), str(task.request.id), documents, priority)
    visible_again = task.app.conf.broker_transport_options["visibility_timeout"]
    deadline = task.request.received + WAIT_SHARE * visible_again
    answers = call.wait(deadline - time.monotonic(), is_over=lambda: not is_working())
    if answers is None:
        # Atomic in Redis, where a retry would be a second message and an acknowledgement of the first.
        raise Reject("handed back to the queue: its documents are not finished yet", requeue=True)
    return answers


class Call:
    """The documents of one call on their way through the queue.

    No document goes by the id that its caller gave it: whoever knows or guesses the id of another's would read its
    result. On the queue it is called `task:`, the task's id, the digest of the call, its number; in the answer it has
    its caller's name again.

    Args:
        client: Where documents go.
        task_id: Names the call. The same again with the same documents is the same call; with others it is another.
        documents: What the caller gave, untrusted.
        priority: Of all its documents, untrusted too.

    Raises:
        DocumentError: If the call breaks a rule.
    """

    def __init__(self, client: Client, task_id: str, documents: object, priority: object) -> None:
        if not isinstance(documents, list) or len(documents) > MAX_DOCUMENTS:
            came = str(len(documents)) if isinstance(documents, list) else type(documents).__name__
            raise DocumentError(f"documents must be a list of at most {MAX_DOCUMENTS}, was: {came}; make several calls")
        self._client = client
        self._priority = cast(Priority, priority if isinstance(priority, str) else ascii(priority))
        client.keys.stream(self._priority)  # raises if there is none
        digest = hashlib.sha256(json.dumps([documents, priority], sort_keys=True).encode()).hexdigest()
        name = f"{_plain(task_id)}:{digest[:12]}"
        self._note = client.keys.call(name)
        self._ids = [f"task:{name}:{number}" for number in range(len(documents))]
        self._names = []
        self._rest = []
        for number, given in enumerate(documents):
            try:
                document, own_name = _read(given, self._ids[number])
                document.check(client.keys, client.settings.max_document_characters)
            except DocumentError as error:
                raise DocumentError(f"of the documents, counted from 0, number {number}: {error}") from None
            self._rest.append(document)
            self._names.append(own_name)
        _check_size(self._rest, client.settings.max_document_characters)
        self._answers: dict[int, Answer] = {}
        self._renew_at = 0.0

    def wait(self, seconds: float, is_over: Callable[[], bool]) -> list[Answer] | None:
        """Enqueue what is not yet, and wait for all answers; None if they were not there in time.

        Args:
            seconds: How long to wait.
            is_over: Ends the waiting early.
        """
        deadline = time.monotonic() + seconds
        warned = False
        look = FIRST_LOOK_SECONDS
        while not is_over() and time.monotonic() < deadline:
            try:
                if self._advance():
                    return [self._answers[number] for number in range(len(self._ids))]
            except ServiceError as error:
                if not warned:
                    logger.warning("%s waits: %s", self._note, error)
                warned = True
                time.sleep(PAUSE_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, hides nothing
            else:
                time.sleep(look)
                look = min(SLOWEST_LOOK_SECONDS, 1.5 * look)
        return None

    def _advance(self) -> bool:
        """Do what can be done now; whether all answers are there.

        Raises:
            QueueFull: If some documents wait for room, and there was none.
        """
        is_full = bool(self._rest) and not self._submit()
        self._look()
        if len(self._answers) == len(self._ids):
            return True
        if time.monotonic() >= self._renew_at:
            self._renew()
        if is_full:
            raise QueueFull(f"the queue has no room for {len(self._rest)} of its {len(self._ids)} documents", [])
        return False

    def _submit(self) -> int:
        """Enqueue what is not yet, and keep its texts no longer; how many could be."""
        before = len(self._ids) - len(self._rest)
        accepted = self._client.submit_call(self._rest, note=self._note, before=before, priority=self._priority)
        del self._rest[:accepted]
        return accepted

    def _look(self) -> None:
        """Fetch the results that have come."""
        accepted = len(self._ids) - len(self._rest)
        missing = [number for number in range(accepted) if number not in self._answers]
        if not missing:
            return
        with explaining(self._client.settings.redis_url):
            payloads: Any = self._client.redis.mget([self._client.keys.result(self._ids[n]) for n in missing])
        for number, payload in zip(missing, payloads, strict=True):
            if payload is not None:
                self._answers[number] = json.loads(payload) | {"id": self._names[number]}

    def _renew(self) -> None:
        """Let the note live on, and with it the results that it stands for: who comes again must find both or none."""
        lifetime = self._client.settings.result_ttl_seconds
        with explaining(self._client.settings.redis_url), self._client.redis.pipeline() as step:
            for key in (self._note, *(self._client.keys.result(self._ids[number]) for number in self._answers)):
                step.expire(key, lifetime)
            step.execute()
        self._renew_at = time.monotonic() + lifetime / 3


def _read(given: object, queue_id: str) -> tuple[Document, str]:
    """Check what a caller gave; the document under its name on the queue, and its name for the caller."""
    fields = {"text": given} if isinstance(given, str) else given
    if not isinstance(fields, dict) or not fields.keys() <= set(FIELDS) or "text" not in fields:
        came = ", ".join(map(str, fields)) if isinstance(fields, dict) else type(fields).__name__
        raise DocumentError(f"it must be a text, or an object of {', '.join(FIELDS)}, was: {shorten(came)}")
    document = Document.new(**{name: value for name, value in fields.items() if value is not None})
    given_id = None if fields.get("id") is None else document.id
    return document.model_copy(update={"id": queue_id}), given_id or queue_id


def _plain(task_id: str) -> str:
    if _PLAIN_ID.fullmatch(task_id):
        return task_id
    return hashlib.sha256(task_id.encode("utf-8", "backslashreplace")).hexdigest()[:32]


def _check_size(documents: list[Document], max_characters: int) -> None:
    """A worker holds all its calls in memory, however few documents it reads."""
    size = sum(len(document.text) + len(document.meta or "") for document in documents)
    if size > max_characters:
        raise DocumentError(
            f"the documents of one call must have at most {max_characters} characters together "
            f"(GPNER_MAX_DOCUMENT_CHARACTERS), was: {size}; make several calls"
        )


@cache
def _client() -> Client:
    return Client()
