"""The document queue on Redis Streams: read, keep alive, take over, commit, hand back.

What makes it safe stands in the scripts of worker/lua, each of which Redis runs as one step. An entry stays pending in
the consumer group from its reading to its commit, so whatever happens to a worker, the entry is there for another.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from itertools import chain
from typing import Any, NamedTuple

import redis
from redis.commands.core import Script

from gpner.errors import ServiceError
from worker.connection import connect, explaining
from worker.protocol import Keys, fields_of
from worker.settings import Settings
from worker.turns import Turns

# What even an empty document counts when streams share a worker.
ENTRY_BYTES = 64
# A document delivered so often has probably killed two workers.
SUSPECT_DELIVERIES = 3
# More entries in one script would keep Redis from others for longer than a millisecond or two.
ENTRIES_PER_SCRIPT = 500
# After how many leases of silence, with nothing pending, a consumer's name is forgotten.
FORGET_LEASES = 10
# After how long a silence a worker's last report is forgotten: longer than a restart of Redis or of the worker takes.
FORGET_REPORT_SECONDS = 60
# Written as the idle time of a released entry: more than any lease, so that whoever looks next may take it (11 days).
RELEASED_MILLISECONDS = 10**9

logger = logging.getLogger(__name__)


class Entry(NamedTuple):
    """One stream entry that this worker holds.

    `deliveries` counts how often it was handed to a worker, this time included; releases do not count.
    """

    stream: str
    entry_id: str
    fields: dict[bytes, bytes]
    deliveries: int

    @property
    def enqueued_seconds(self) -> float:
        """When it was enqueued, in seconds since the epoch, by the clock of Redis."""
        return int(self.entry_id.partition("-")[0]) / 1000


class Outcome(NamedTuple):
    """What becomes of an entry, all of it or nothing.

    `payload` is the JSON of a result or failure; it is set at `result_key` and appended to the stream `reply_to` where
    they are given. `dead` is the JSON of a dead letter, for entries that are buried.
    """

    entry: Entry
    result_key: str | None
    payload: bytes
    reply_to: str | None
    dead: bytes | None


class DocumentQueue:
    """One consumer of the document streams. Safe for threads, except that only one may `read`.

    Args:
        settings: Where Redis is, the namespace, the lease, the time to live of results.
        consumer: The name under which entries are held; no two processes may share one.

    Every method raises `ServiceError` when Redis is away or refuses; nothing is lost then, the call may be repeated.
    """

    def __init__(self, settings: Settings, *, consumer: str) -> None:
        self.keys = Keys(settings.namespace)
        self.consumer = consumer
        self.url = settings.redis_url
        self.redis = connect(settings.redis_url)
        self.result_ttl_seconds = settings.result_ttl_seconds
        self.lease_milliseconds = max(1, round(settings.lease_seconds * 1000))
        # redis-py would make dictionaries of the fields, and a field that stands there twice would go unseen.
        self.redis.set_response_callback("XREADGROUP", lambda answer, **_: answer or [])
        self._turns = Turns(self.keys.streams, settings.fair_share)
        self._stream_numbers = {stream: number for number, stream in enumerate(self.keys.streams, start=1)}
        names = (
            "read", "renew", "reclaim", "commit", "release", "forget", "oldest", "unfinished", "announce"
        )  # fmt: skip
        self._scripts = {name: load_script(self.redis, name) for name in names}

    def ensure(self) -> None:
        """Create streams and consumer group where they are missing, and forget the names of consumers long dead.

        The group begins at the first entry, so documents that were enqueued before any worker existed are read.
        """
        with explaining(self.url):
            for stream in self.keys.streams:
                try:
                    self.redis.xgroup_create(stream, self.keys.group, id="0", mkstream=True)
                except redis.ResponseError as error:
                    # A full Redis refuses this even where the group is, and it may be that only workers can free it.
                    if "BUSYGROUP" not in str(error) and not self._has_group(stream):
                        raise
        self._forget("")

    def read(self, count: int, block_seconds: float, max_bytes: int = sys.maxsize) -> list[Entry]:
        """Take documents that nobody has, urgent streams first.

        Args:
            count: The most documents to take.
            block_seconds: How long to wait when there are none; keep it under the connection's timeout of 10 s. What
                comes then is one document of each stream at most.
            max_bytes: Take no more after so many bytes. The last documents, eight at most, may pass it by any number.
        """
        arguments = [self.keys.group, self.consumer, count, max_bytes]
        order = self._turns.order()
        entries = self._first_deliveries(self._run("read", order, arguments))
        self._turns.record(order, _sizes(entries))
        return entries or (self._first_deliveries(self._wait(block_seconds)) if block_seconds > 0 else [])

    def renew(self, entries: Sequence[Entry]) -> list[Entry]:
        """Keep entries from being taken over; those that already were are left alone.

        Returns:
            Entries that this consumer does not hold any more: finished, or taken over by another.
        """
        lost: list[Entry] = []
        for chunk in _chunks(entries):
            names = chain.from_iterable(map(self._name, chunk))
            positions = self._run("renew", self.keys.streams, [self.keys.group, self.consumer, *names])
            lost += [chunk[position] for position in positions]
        return lost

    def reclaim(self, count: int) -> tuple[list[Entry], bool]:
        """Take over entries that no worker has renewed for a lease, released ones at once; each counts as a delivery.

        Renew what this worker holds first: after a time without Redis its own entries look abandoned too.

        Args:
            count: The most entries to take.

        Returns:
            The entries, and whether suspects wait, which only `reclaim_suspect` takes.
        """
        return self._reclaim(count, suspects=False)

    def reclaim_suspect(self) -> Entry | None:
        """Take over one abandoned entry of those delivered so often that they have probably killed workers.

        Hold nothing else from its reading to its end: what is held with it dies with it, and is suspected in its turn.
        """
        entries, _ = self._reclaim(1, suspects=True)
        return entries[0] if entries else None

    def commit(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """Finish entries and publish their outcomes, in one step for all.

        The acknowledgement decides: it succeeds once per entry, for the first who commits it, whoever holds the entry.
        Only then are result, reply and dead letter written and the entry deleted.

        Returns:
            For each outcome whether it was the first, now or in an earlier call whose answer was lost; False changed
            nothing. (Of a burial whose answer was lost nobody can say whose it was; it counts as False.)
        """
        keys: list[str] = [*self.keys.streams, self.keys.dead]
        buried = sum(outcome.dead is not None for outcome in outcomes)
        arguments: list[Any] = [self.keys.group, self.result_ttl_seconds, buried]
        for outcome in outcomes:
            arguments += self._name(outcome.entry)
            for key in (outcome.result_key, outcome.reply_to):
                if key is not None:
                    keys.append(key)
                arguments.append(0 if key is None else len(keys))
            arguments += [outcome.payload, outcome.dead or b""]
        states = self._run("commit", keys, arguments)
        for outcome, state in zip(outcomes, states, strict=True):
            if state == 2:
                logger.warning("no reply to %s: it is no stream that can be appended to", outcome.reply_to)
        return [state > 0 for state in states]

    def release(self, entries: Sequence[Entry]) -> None:
        """Hand entries back: the next `reclaim` of any worker takes them, and this delivery does not count."""
        for chunk in _chunks(entries):
            arguments: list[Any] = [self.keys.group, self.consumer, RELEASED_MILLISECONDS]
            for entry in chunk:
                arguments += [*self._name(entry), entry.deliveries - 1]
            self._run("release", self.keys.streams, arguments)

    def release_unknown(self, is_known: Callable[[Entry], bool]) -> int:
        """Hand back what Redis delivered to this consumer in answers that never came: they were lost on their way.

        Args:
            is_known: Whether this consumer has read an entry and not finished it.

        Returns:
            How many entries were handed back.
        """
        released = 0
        for stream in self.keys.streams:
            start = "-"
            while page := self._pending(stream, start):
                unknown = [entry for entry in page if not is_known(entry)]
                self.release(unknown)
                released += len(unknown)
                start = f"({page[-1].entry_id}"
        return released

    def leave(self) -> None:
        """Forget this consumer's name where nothing is pending under it. Released entries keep it until taken over."""
        self._forget(self.consumer)
        with explaining(self.url):
            self.redis.hdel(self.keys.workers, self.consumer)

    def announce(self, report: str) -> None:
        """Note what this consumer says of itself, with the time; it is forgotten after a minute of silence."""
        self._run("announce", [self.keys.workers], [self.consumer, report, FORGET_REPORT_SECONDS * 1000])

    def ping(self) -> None:
        """Return if Redis answers."""
        with explaining(self.url):
            self.redis.ping()

    def depth(self) -> dict[str, int]:
        """Accepted and unfinished documents of each stream: those that wait and those that workers hold."""
        with explaining(self.url):
            return {stream: int(self.redis.xlen(stream)) for stream in self.keys.streams}

    def unfinished(self, stream: str) -> tuple[int, int]:
        """Accepted and unfinished documents of a stream, and those of them that workers hold and keep alive."""
        unfinished, held = self._run("unfinished", [stream], [self.keys.group, self.lease_milliseconds])
        return int(unfinished), int(held)

    def oldest_age_seconds(self, *streams: str) -> float:
        """How long ago the oldest unfinished document was enqueued; 0 if there is none. By the clock of Redis.

        Args:
            streams: Where to look; all unless given.
        """
        return int(self._run("oldest", streams or self.keys.streams, [])) / 1000

    def dead_letters(self) -> int:
        """How many dead letters lie there."""
        with explaining(self.url):
            return int(self.redis.xlen(self.keys.dead))

    def close(self) -> None:
        """Close the connections; entries stay pending until another worker takes them over."""
        self.redis.close()

    def _pending(self, stream: str, start: str) -> list[Entry]:
        """A page of the entries of a stream that are pending with this consumer, without their fields."""
        group, consumer = self.keys.group, self.consumer
        with explaining(self.url):
            page: Any = self.redis.xpending_range(stream, group, start, "+", ENTRIES_PER_SCRIPT, consumer)
        return [Entry(stream, row["message_id"].decode(), {}, row["times_delivered"]) for row in page]

    def _has_group(self, stream: str) -> bool:
        try:
            self.redis.xinfo_consumers(stream, self.keys.group)
        except redis.ResponseError:
            return False
        return True

    def _run(self, script: str, keys: Iterable[str], arguments: list[Any]) -> Any:
        with explaining(self.url):
            try:
                return self._scripts[script](keys=tuple(keys), args=arguments)
            except redis.ResponseError as error:
                # Redis was emptied, or came back without its data.
                if "NOGROUP" not in str(error):
                    raise
        self.ensure()
        with explaining(self.url):
            return self._scripts[script](keys=tuple(keys), args=arguments)

    def _reclaim(self, count: int, *, suspects: bool) -> tuple[list[Entry], bool]:
        arguments = [self.keys.group, self.consumer, self.lease_milliseconds, count, SUSPECT_DELIVERIES, int(suspects)]
        suspects_wait, *taken = self._run("reclaim", (*self.keys.streams, self.keys.clock), arguments)
        return [self._entry(stream, row, deliveries) for stream, row, deliveries in taken], bool(suspects_wait)

    def _wait(self, block_seconds: float) -> Any:
        milliseconds = max(1, round(block_seconds * 1000))
        streams: dict[Any, Any] = dict.fromkeys(self.keys.streams, ">")
        try:
            with explaining(self.url):
                # COUNT is per stream here; who wakes up reads the rest under the limits of `read`.
                return self.redis.xreadgroup(self.keys.group, self.consumer, streams, count=1, block=milliseconds)
        except ServiceError as error:
            if not any(sign in str(error.__cause__) for sign in ("NOGROUP", "UNBLOCKED")):
                raise
            self.ensure()
            return []

    def _forget(self, consumer: str) -> None:
        silence = FORGET_LEASES * self.lease_milliseconds
        self._run("forget", self.keys.streams, [self.keys.group, consumer, silence])

    def _first_deliveries(self, found: Any) -> list[Entry]:
        return [self._entry(stream, row, 1) for stream, rows in found for row in rows]

    def _entry(self, stream: bytes, row: list[Any], deliveries: int) -> Entry:
        entry_id, flat = row
        return Entry(stream.decode(), entry_id.decode(), fields_of(flat), deliveries)

    def _name(self, entry: Entry) -> tuple[int, str]:
        """Stream number (as Lua counts) and entry id."""
        return self._stream_numbers[entry.stream], entry.entry_id


def load_script(connection: redis.Redis, name: str) -> Script:
    """A script of worker/lua, sent to Redis on its first use and again whenever Redis has forgotten it."""
    text = resources.files("worker").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
    return connection.register_script(text)


def _sizes(entries: Sequence[Entry]) -> dict[str, int]:
    """How much of each stream some entries are, in bytes of text; an entry itself counts something too."""
    sizes: dict[str, int] = {}
    for entry in entries:
        size = ENTRY_BYTES + len(entry.fields.get(b"text", b""))
        sizes[entry.stream] = sizes.get(entry.stream, 0) + size
    return sizes


def _chunks(entries: Sequence[Entry]) -> Iterable[Sequence[Entry]]:
    return (entries[i : i + ENTRIES_PER_SCRIPT] for i in range(0, len(entries), ENTRIES_PER_SCRIPT))
