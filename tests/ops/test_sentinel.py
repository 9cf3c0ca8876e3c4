"""What a failover by sentinels keeps of that which producers were told, and what it does not."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from gpner.errors import ServiceError
from tests.ops.sentinels import MASTER_NAME, Guarded, Server
from tests.workers import wait_until
from worker.client import Client
from worker.protocol import Document

pytestmark = [pytest.mark.integration, pytest.mark.slow]
PRODUCERS = 4
STRICT = "min-replicas-to-write 1\nmin-replicas-max-lag 10\n"


class Producer(threading.Thread):
    """Enqueues documents through any failover, and notes the ids of those that a replica had confirmed."""

    def __init__(self, redis: Redis, stream: str) -> None:
        super().__init__()
        self.confirmed: list[str] = []
        self.stopping = threading.Event()
        self._redis = redis
        self._stream = stream

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                document_id, replicas = enqueue(self._redis, self._stream)
            except RedisError:
                continue
            if replicas:
                self.confirmed.append(document_id)


def enqueue(redis: Redis, stream: str) -> tuple[str, int]:
    """Add a document; its id, and how many replicas have it after a second at the latest."""
    document = Document.new("Ada met Babbage.")
    # WAIT speaks of the writes of its own connection; a pipeline has one.
    pipeline = redis.pipeline(transaction=False)
    pipeline.xadd(stream, document.to_fields())
    pipeline.wait(1, 1000)
    _, replicas = pipeline.execute()
    return document.id, replicas


def ids(server: Server, stream: str) -> set[str]:
    return {fields[b"id"].decode() for _, fields in server.client.xrange(stream)}


def submits(client: Client) -> bool:
    """Whether a document is accepted."""
    try:
        client.submit("Ada met Babbage.")
    except ServiceError:
        return False
    return True


@contextmanager
def woken_master(guarded: Guarded) -> Iterator[Server]:
    """The master as it was before a failover through which it slept, as a machine that was frozen; just woken up."""
    old = guarded.master()
    old.signal(signal.SIGSTOP)
    try:
        guarded.wait_for_another_than(old)
    finally:
        old.signal(signal.SIGCONT)
    yield old


def test_what_a_replica_has_confirmed_survives_the_death_of_the_master(tmp_path: Path) -> None:
    with Guarded(tmp_path) as guarded:
        old = guarded.master()
        redis = guarded.sentinel.master_for(MASTER_NAME, socket_timeout=2, protocol=2, retry=Retry(NoBackoff(), 0))
        producers = [Producer(redis, "gpner:documents") for _ in range(PRODUCERS)]
        for producer in producers:
            producer.start()
        wait_until(lambda: all(len(producer.confirmed) > 100 for producer in producers))

        old.signal(signal.SIGKILL)
        new = guarded.wait_for_another_than(old)
        before = {producer: len(producer.confirmed) for producer in producers}
        wait_until(lambda: all(len(producer.confirmed) > before[producer] for producer in producers))
        for producer in producers:
            producer.stopping.set()
            producer.join()

        assert {name for producer in producers for name in producer.confirmed} <= ids(new, "gpner:documents")


def test_a_master_that_slept_through_its_failover_loses_what_it_accepts_and_wait_says_so(tmp_path: Path) -> None:
    with (
        Guarded(tmp_path) as guarded,
        woken_master(guarded) as old,
        Client(f"redis://127.0.0.1:{old.port}/0") as client,
    ):
        accepted = client.submit("Ada met Babbage.")
        unconfirmed, replicas = enqueue(old.client, client.keys.normal)

        assert replicas == 0
        wait_until(lambda: old.client.info("replication")["role"] == "slave", 30, "the sentinels' order")
        wait_until(lambda: old.client.info("replication")["master_link_status"] == "up", 30, "the new master's data")
        for server in (old, guarded.master()):
            assert not {accepted, unconfirmed} & ids(server, client.keys.normal)


def test_a_master_that_misses_its_replicas_refuses_documents_if_it_was_told_to(tmp_path: Path) -> None:
    with (
        Guarded(tmp_path, STRICT) as guarded,
        woken_master(guarded) as old,
        Client(f"redis://127.0.0.1:{old.port}/0") as client,
    ):
        # It looks for its replicas once a second.
        wait_until(lambda: not submits(client), 5, "a refusal")

        assert old.client.info("replication")["role"] == "master"
        with pytest.raises(ServiceError, match="NOREPLICAS"):
            client.submit("Ada met Babbage.")
