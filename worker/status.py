"""What the service is doing, from Redis alone: for `gpner-worker status`, wherever it runs."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, Field

from worker.connection import explaining
from worker.presence import Report, reports
from worker.queue import DocumentQueue
from worker.whereabouts import consumers, name_of

# A worker that has said nothing for so long does not count in the rate any more; it says something every second.
STALE_SECONDS = 5.0


class StreamStatus(BaseModel):
    """One document stream."""

    name: str
    unfinished: int = Field(description="Accepted and not yet done or failed: waiting and processing together.")
    waiting: int = Field(description="Never read, handed back, or left behind by a worker that is gone.")
    processing: int = Field(description="Held by workers that renew their lease.")
    oldest_age_seconds: float = Field(description="Since the oldest unfinished document arrived; 0 if there is none.")


class WorkerStatus(BaseModel):
    """One worker, by its name in the consumer group."""

    name: str
    state: str = Field(
        description="What it says of itself; `at work` if it says nothing, `gone` if silent for a lease."
    )
    documents_held: int = Field(description="Those of one that is gone wait for others.")
    silent_seconds: float = Field(description="Since Redis last heard of it.")
    report: Report | None = Field(description="Its own report; null if there is none.")


class Status(BaseModel):
    """Everything that `gpner-worker status` shows; `--json` prints it."""

    streams: list[StreamStatus]
    workers: list[WorkerStatus]
    dead_letters: int
    documents_per_second: float | None = Field(description="Of all workers together; null if none tells it.")
    drained_in_seconds: float | None = Field(
        description="Until all is done at this rate if nothing more arrives; null if nothing gets done."
    )
    used_bytes: int = Field(description="Redis' memory in use.")
    limit_bytes: int | None = Field(description="Redis' `maxmemory`; null if there is none.")


def read_status(queue: DocumentQueue) -> Status:
    """Ask Redis.

    Raises:
        ServiceError: If Redis is away or refuses.
    """
    streams = [_stream(queue, name) for name in queue.keys.streams]
    with explaining(queue.url):
        said = reports(queue.redis, queue.keys)
        found = consumers(queue.redis, queue.keys)
        memory: Any = queue.redis.info("memory")
    rates = [report.documents_per_second for report, silent in said.values() if silent <= STALE_SECONDS]
    rate = sum(rates) if rates or not found else None
    unfinished = sum(stream.unfinished for stream in streams)
    return Status(
        streams=streams,
        workers=_workers(found, said, queue.lease_milliseconds / 1000),
        dead_letters=queue.dead_letters(),
        documents_per_second=rate,
        drained_in_seconds=_drained_in(unfinished, rate),
        used_bytes=memory["used_memory"],
        limit_bytes=memory["maxmemory"] or None,
    )


def _stream(queue: DocumentQueue, name: str) -> StreamStatus:
    unfinished, processing = queue.unfinished(name)
    return StreamStatus(
        name=name,
        unfinished=unfinished,
        waiting=unfinished - processing,
        processing=processing,
        oldest_age_seconds=queue.oldest_age_seconds(name),
    )


def _workers(
    found: Sequence[dict[str, Any]], said: dict[str, tuple[Report, float]], lease_seconds: float
) -> list[WorkerStatus]:
    """Put together what Redis knows of its consumers and what workers say of themselves."""
    held: dict[str, int] = dict.fromkeys(said, 0)
    silent = {name: seconds for name, (_, seconds) in said.items()}
    for consumer in found:
        name = name_of(consumer)
        held[name] = held.get(name, 0) + consumer["pending"]
        silent[name] = min(silent.get(name, float("inf")), consumer["idle"] / 1000)
    workers = []
    for name in sorted(held):
        report = said[name][0] if name in said else None
        state = "gone" if silent[name] > lease_seconds else report.state if report else "at work"
        workers.append(
            WorkerStatus(name=name, state=state, documents_held=held[name], silent_seconds=silent[name], report=report)
        )
    return workers


def _drained_in(unfinished: int, rate: float | None) -> float | None:
    if not unfinished:
        return 0.0
    return unfinished / rate if rate else None
