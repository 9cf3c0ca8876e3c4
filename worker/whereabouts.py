"""Where a document is that has no result yet, in words for the person who waits for it."""

from contextlib import suppress
from typing import Any

import redis

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
    if connection.xrange(stream, entry_id, entry_id):
        return f"it is still queued; {advice}"
    return "it is not queued any more and its result is gone; results live GPNER_RESULT_TTL_SECONDS, ask sooner"


def _advice(connection: redis.Redis, keys: Keys, lease_seconds: float) -> str:
    alive = {consumer["name"] for consumer in consumers(connection, keys) if consumer["idle"] <= lease_seconds * 1000}
    if alive:
        return f"raise timeout_seconds, or start more workers ({len(alive)} at work)"
    return f"no worker has been seen for {lease_seconds:g} s: start one with `gpner-worker start`"


def consumers(connection: redis.Redis, keys: Keys) -> list[dict[str, Any]]:
    """What Redis knows of the workers: name, pending and idle (milliseconds), once per stream that they read."""
    found: list[dict[str, Any]] = []
    for stream in keys.streams:
        # Without a stream or its group no worker has ever been here.
        with suppress(redis.ResponseError):
            found += connection.xinfo_consumers(stream, keys.group)
    return found


def _pending(connection: redis.Redis, keys: Keys, stream: str, entry_id: str) -> Any:
    try:
        found: Any = connection.xpending_range(stream, keys.group, entry_id, entry_id, 1)
    except redis.ResponseError:
        return None
    return found[0] if found else None
