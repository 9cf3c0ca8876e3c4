"""Where a document is that has no result yet, in words for the person who waits for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from worker.presence import READING, reports
from worker.protocol import Keys
from worker.queue import RELEASED_MILLISECONDS


def whereabouts(connection: redis.Redis, keys: Keys, place: tuple[str, str] | None, lease_seconds: float) -> str:
    """Say what is known of a document without a result, and what to do.

    Args:
        connection: To Redis.
        keys: The service's keys.
        place: Stream and entry id of the document; None if they are not known here.
        lease_seconds: A worker that was silent for longer counts as gone.
    """
    advice = _advice(connection, keys, lease_seconds)
    if place is None:
        unfinished = sum(int(connection.xlen(stream)) for stream in keys.streams)
        return f"this client did not submit it, {unfinished} documents are queued or being processed; {advice}"
    stream, entry_id = place
    if pending := _pending(connection, keys, stream, entry_id):
        if pending["time_since_delivered"] >= RELEASED_MILLISECONDS:
            return f"its worker handed it back and it waits for another; {advice}"
        silence = pending["time_since_delivered"] / 1000
        if silence > lease_seconds:
            return f"its worker has been silent for {silence:.0f} s and nobody took it over; {advice}"
        worker, times = pending["consumer"].decode("utf-8", "replace"), pending["times_delivered"]
        return f"it is being processed by {worker} (delivery {times}); raise timeout_seconds"
    if _is_unread(connection, keys, stream, entry_id):
        return f"it is still queued; {advice}"
    return (
        "it is not queued any more and its result is gone; results live GPNER_RESULT_TTL_SECONDS, ask sooner; "
        "if it failed and `gpner-worker dead retry` put it back, its result is still to come"
    )


def _advice(connection: redis.Redis, keys: Keys, lease_seconds: float) -> str:
    states = {
        name: report.state for name, (report, silent) in reports(connection, keys).items() if silent <= lease_seconds
    }
    alive = {name_of(consumer) for consumer in consumers(connection, keys) if consumer["idle"] <= lease_seconds * 1000}
    if at_work := [name for name in alive if states.get(name, READING) == READING]:
        return f"raise timeout_seconds, or start more workers ({len(at_work)} at work)"
    if states:
        found = ", ".join(sorted(set(states.values())))
        return f"none of {len(states)} workers reads just now ({found}); see `gpner-worker status`"
    return f"no worker has been seen for {lease_seconds:g} s: start one with `gpner-worker start`"


def consumers(connection: redis.Redis, keys: Keys) -> list[dict[str, Any]]:
    """What Redis knows of the workers: name, pending and idle (milliseconds), once per stream that they read."""
    found: list[dict[str, Any]] = []
    for stream in keys.streams:
        with _no_worker_yet():
            found += connection.xinfo_consumers(stream, keys.group)
    return found


def name_of(consumer: dict[str, Any]) -> str:
    """A worker's name in the consumer group; any client of this Redis may have chosen it."""
    return str(consumer["name"].decode("utf-8", "backslashreplace"))


def _pending(connection: redis.Redis, keys: Keys, stream: str, entry_id: str) -> Any:
    found: Any = None
    with _no_worker_yet():
        found = connection.xpending_range(stream, keys.group, entry_id, entry_id, 1)
    return found[0] if found else None


def _is_unread(connection: redis.Redis, keys: Keys, stream: str, entry_id: str) -> bool:
    """Whether no worker has read an entry yet: the group's position says so to producers who may not read streams."""
    if not connection.xlen(stream):
        return False
    groups: Any = connection.xinfo_groups(stream)
    read = [group["last-delivered-id"].decode() for group in groups if group["name"] == keys.group.encode()]
    return not read or _order(entry_id) > _order(read[0])


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)


@contextmanager
def _no_worker_yet() -> Iterator[None]:
    """Pass over what Redis says where no worker has ever been: there is no stream, or no group."""
    try:
        yield
    except redis.ResponseError as error:
        if not any(sign in str(error) for sign in ("NOGROUP", "no such key")):
            raise
