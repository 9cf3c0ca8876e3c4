"""What tests do with a queue: fill it, finish its documents, see who holds them, wait until a lease is over."""

import time
from collections.abc import Callable

from gpner.entities import Extraction
from worker.held import Held
from worker.outcomes import Done
from worker.protocol import Document
from worker.queue import DocumentQueue, Entry, Outcome

LEASE_SECONDS = 0.3
Join = Callable[[str], DocumentQueue]


def add(queue: DocumentQueue, count: int = 1, stream: str | None = None, **fields: str) -> None:
    for i in range(count):
        queue.redis.xadd(stream or queue.keys.normal, {"id": f"{i}", "text": "text", **fields})


def done(queue: DocumentQueue, entry: Entry) -> Outcome:
    document = Document.from_fields(entry.fields, queue.keys, 1000)
    now = time.time()
    return Done(Held(entry, document, 1, now), Extraction((), 1, 1), queue.consumer, "").outcome(queue.keys, now)


def take_over(queue: DocumentQueue, count: int = 10) -> list[Entry]:
    """What others left behind; one suspect if there is nothing else."""
    entries, _ = queue.reclaim(count)
    suspect = None if entries else queue.reclaim_suspect()
    return [suspect] if suspect else entries


def pending(queue: DocumentQueue) -> dict[str, str]:
    """Entry id to the consumer that holds it."""
    rows = queue.redis.xpending_range(queue.keys.normal, queue.keys.group, "-", "+", 10_000)
    return {row["message_id"].decode(): row["consumer"].decode() for row in rows}


def wait_out_the_lease() -> None:
    time.sleep(1.25 * LEASE_SECONDS)
