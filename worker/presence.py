"""What each worker says of itself once a second, in one hash: for `gpner-worker status`, with only Redis between.

Redis knows who holds what. It does not know what a worker does just now, nor how fast.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import redis
from pydantic import BaseModel, Field

from gpner.errors import ServiceError
from worker.protocol import Keys
from worker.queue import DocumentQueue

logger = logging.getLogger(__name__)

ANNOUNCE_SECONDS = 1.0
# A rate over less would be nothing but the last batch.
RATE_SECONDS = 30.0
# The state of a worker that takes documents.
READING = "reading"


class Report(BaseModel):
    """What a worker says of itself. Readers ignore fields that they do not know."""

    state: str = Field(description="`reading`, or what keeps it from reading: `loading`, `paused` and the like.")
    device: str = Field(description="`cpu`, or the GPU.")
    model: str = Field(default="", description="The model's name; empty while it is loading.")
    revision: str = Field(default="", description="The model's content hash; empty while it is loading.")
    batch_tokens: int = Field(description="The most tokens in a batch at present.")
    tokens_held: int = Field(description="Tokens of the documents between their reading and their commit.")
    documents_ended: int = Field(description="Documents done or failed since it started.")
    documents_per_second: float = Field(default=0.0, description="Those that ended over the last half minute.")


class Presence:
    """Announces one worker, in one thread.

    Args:
        queue: Where to.
        describe: Says what is to be said; the rate is added here.
        ended: Ends the announcing.
    """

    def __init__(self, queue: DocumentQueue, describe: Callable[[], Report], ended: threading.Event) -> None:
        self._queue = queue
        self._describe = describe
        self._ended = ended
        self._counts: deque[tuple[float, int]] = deque()

    def run(self) -> None:
        """Announce until `ended` is set."""
        while True:
            report = self._describe()
            rate = self._rate(report.documents_ended)
            try:
                self._queue.announce(report.model_copy(update={"documents_per_second": rate}).model_dump_json())
            except ServiceError as error:
                # The threads that need Redis say so; nobody misses this.
                logger.debug("not announced: %s", error)
            if self._ended.wait(ANNOUNCE_SECONDS):
                return

    def _rate(self, documents_ended: int) -> float:
        now = time.monotonic()
        self._counts.append((now, documents_ended))
        while now - self._counts[0][0] > RATE_SECONDS:
            self._counts.popleft()
        since, before = self._counts[0]
        return (documents_ended - before) / (now - since) if now > since else 0.0


def reports(connection: redis.Redis, keys: Keys) -> dict[str, tuple[Report, float]]:
    """What workers said last, and how many seconds ago by the clock of Redis, by their names.

    A report that cannot be read, of a release to come perhaps, is left out.
    """
    seconds, microseconds = connection.time()
    now = seconds + microseconds / 1e6
    said: Any = connection.hgetall(keys.workers)
    found = {}
    for name, value in said.items():
        milliseconds, _, report = value.partition(b" ")
        try:
            silent = max(0.0, now - int(milliseconds) / 1000)
            found[name.decode("utf-8", "backslashreplace")] = (Report.model_validate_json(report), silent)
        except ValueError:  # pydantic's ValidationError is one too
            continue
    return found
