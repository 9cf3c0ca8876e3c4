"""A producer that never gives up: every document is submitted under its id until it is accepted."""

import threading
from collections.abc import Sequence
from random import Random
from types import TracebackType
from typing import Literal, Self

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gpner.errors import QueueFull, ServiceError
from tests.chaos.ledger import Ledger, Told
from tests.chaos.service import PATIENCE_SECONDS, Service
from worker.client import Client
from worker.protocol import Document

Workload = Literal["steady", "backlog"]

# Steady arrival: well under what one worker of the suite's engine can do.
DOCUMENTS_PER_SECOND = 30.0
# Backlog: never fewer unfinished documents than this, so that no worker ever waits for one.
BACKLOG_DOCUMENTS = 150
CHUNK_DOCUMENTS = 50
PAUSE_SECONDS = 0.05
MOST_PIECES = 25
OFFER = "one more OFFER"


class Producer:
    """Submits from a thread of its own within its `with` block, and by `submit`.

    Args:
        service: Where they go.
        ledger: Where everything that is sent is noted.
        workload: Whether documents arrive steadily, or lie there in hundreds.
        pieces: What texts are made of.
        seed: Decides texts and pauses.
    """

    def __init__(self, service: Service, ledger: Ledger, workload: Workload, pieces: Sequence[str], seed: int) -> None:
        self.ledger = ledger
        self._workload = workload
        self._pieces = pieces
        self._random = Random(seed)
        self._client = Client(service.settings)
        self._reply_to = service.reply_to
        self._finishing = threading.Event()
        self._giving_up = threading.Event()
        self._thread = threading.Thread(target=self._produce, name="producer")

    def submit(self, texts: list[str], error_type: str | None = None) -> list[str]:
        """Submit documents, however long it takes, and return their ids.

        Args:
            texts: The documents.
            error_type: The error as which each of them must end, None if they must be done.
        """
        ids = [self.ledger.add(text, error_type) for text in texts]
        while not self._giving_up.is_set() and self._attempt(ids) != "accepted":
            self._giving_up.wait(PAUSE_SECONDS)
        return ids

    def offer(self) -> Told:
        """Submit one document once, and return what came of it."""
        return self._attempt([self.ledger.add(OFFER)])

    def finish(self) -> None:
        """Send no more new documents, and return when the last one is accepted."""
        self._finishing.set()
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive(), "the last document was not accepted"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._giving_up.set()
        self._finishing.set()
        self._thread.join()
        self._client.close()

    def _produce(self) -> None:
        while not self._finishing.is_set():
            if self._workload == "steady":
                self.submit([self._text()])
                self._finishing.wait(self._random.expovariate(DOCUMENTS_PER_SECOND))
            elif self._unfinished() < BACKLOG_DOCUMENTS:
                self.submit([self._text() for _ in range(CHUNK_DOCUMENTS)])
            else:
                self._finishing.wait(PAUSE_SECONDS)

    def _text(self) -> str:
        return " ".join(self._random.choices(self._pieces, k=self._random.randint(1, MOST_PIECES)))

    def _unfinished(self) -> int:
        try:
            return sum(self._client.redis.xlen(stream) for stream in self._client.keys.streams)
        except RedisError:
            return BACKLOG_DOCUMENTS

    def _attempt(self, ids: list[str]) -> Told:
        told = self._told([self._document(document_id) for document_id in ids])
        self.ledger.note(ids, told)
        return told

    def _told(self, documents: list[Document]) -> Told:
        try:
            self._client.submit_many(documents)
        except QueueFull:
            return "refused"
        except ServiceError as error:
            # Redis' own words mean that the script was not run; a connection that broke means nothing.
            cut_off = isinstance(error.__cause__, RedisConnectionError | RedisTimeoutError)
            return "unknown" if cut_off else "refused"
        return "accepted"

    def _document(self, document_id: str) -> Document:
        sent = self.ledger.documents[document_id]
        meta = {"attempt": len(sent.attempts)}
        return Document.new(sent.text, id=document_id, meta=meta, reply_to=self._reply_to)
