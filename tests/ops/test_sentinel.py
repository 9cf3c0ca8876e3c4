"""What a failover by sentinels keeps of that which producers were told, and what it does not."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from gpner.errors import ServiceError
from tests.ops.sentinels import Guarded, Server
from tests.workers import wait_until
from worker.client import Client

pytestmark = [pytest.mark.integration, pytest.mark.slow]
PRODUCERS = 4
STRICT = "min-replicas-to-write 1\nmin-replicas-max-lag 10\n"


class Producer(threading.Thread):
    """Submits through any failover, and notes the ids of what it was told is accepted, so that a replica has it too."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.accepted: list[str] = []
        self.stopping = threading.Event()
        self._address = address

    def run(self) -> None:
        with Client(self._address, replicas=1) as client:
            while not self.stopping.is_set():
                with suppress(ServiceError):
                    self.accepted.append(client.submit("Ada met Babbage."))


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
        producers = [Producer(guarded.url()) for _ in range(PRODUCERS)]
        for producer in producers:
            producer.start()
        wait_until(lambda: all(len(producer.accepted) > 100 for producer in producers))

        old.signal(signal.SIGKILL)
        new = guarded.wait_for_another_than(old)
        before = {producer: len(producer.accepted) for producer in producers}
        wait_until(lambda: all(len(producer.accepted) > before[producer] for producer in producers))
        for producer in producers:
            producer.stopping.set()
            producer.join()

        assert {name for producer in producers for name in producer.accepted} <= ids(new, "gpner:documents")


def test_a_master_that_slept_through_its_failover_loses_what_it_accepts_and_says_so_if_asked(
    tmp_path: Path,
) -> None:
    with (
        Guarded(tmp_path) as guarded,
        woken_master(guarded) as old,
        Client(f"redis://127.0.0.1:{old.port}/0") as client,
        Client(f"redis://127.0.0.1:{old.port}/0", replicas=1) as careful,
    ):
        accepted = client.submit("Ada met Babbage.")
        with pytest.raises(ServiceError, match="at least 1 replicas of Redis must have a document"):
            careful.submit("Ada met Babbage.", id="unconfirmed")

        wait_until(lambda: old.client.info("replication")["role"] == "slave", 30, "the sentinels' order")
        wait_until(lambda: old.client.info("replication")["master_link_status"] == "up", 30, "the new master's data")
        for server in (old, guarded.master()):
            assert not {accepted, "unconfirmed"} & ids(server, client.keys.normal)


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
