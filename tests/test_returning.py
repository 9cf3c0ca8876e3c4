"""Redis comes back after longer than a lease: everyone renews what it holds before anyone takes anything over."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.engines import CapitalsEngine, Run, Words
from tests.test_pump import KEYS, enqueue, result, running
from tests.workers import DurableRedis, wait_until
from worker.connection import connect
from worker.held import DOCUMENT_TOKENS
from worker.intake import IDLE_RECLAIM_SECONDS
from worker.local_redis import free_port
from worker.queue import DocumentQueue, Entry
from worker.settings import RedisUrl, Settings

LEASE_SECONDS = 1.5
RECLAIMING = 1.5 * IDLE_RECLAIM_SECONDS


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DurableRedis]:
    durable = DurableRedis(tmp_path, free_port())
    durable.start()
    yield durable
    durable.kill()


@pytest.mark.parametrize(("worker", "notices"), [("idle", "reading"), ("full", "renewing the lease")])
def test_after_an_outage_longer_than_a_lease_the_living_keep_their_documents_and_those_of_the_dead_move(
    settings: Settings, server: DurableRedis, caplog: pytest.LogCaptureFixture, worker: str, notices: str
) -> None:
    caplog.set_level("INFO")
    go_on = threading.Event()

    class Waiting(CapitalsEngine):
        def run(self, documents: Sequence[Words]) -> Run:
            if any("WAIT" in document.text for document in documents):
                go_on.wait(30)
            return super().run(documents)

    own = settings.model_copy(update={"redis_url": RedisUrl(server.url), "lease_seconds": LEASE_SECONDS})
    other = DocumentQueue(own, consumer="other")
    other.ensure()
    with connect(own.redis_url) as redis, running(own, Waiting, max_held_tokens=DOCUMENT_TOKENS) as pump:
        wait_until(lambda: pump.state == "reading")
        if worker == "full":
            enqueue(redis, id="full", text="WAIT")
            wait_until(lambda: pump.info()["documents_held"])
        with redis.pipeline() as at_once:
            for number in range(3):
                at_once.xadd(KEYS.normal, {"id": str(number), "text": "ADA"})
            at_once.xreadgroup(KEYS.group, "other", {KEYS.normal: ">"})
            *ids, _ = at_once.execute()
        held = [Entry(KEYS.normal, entry_id.decode(), {}, 1) for entry_id in ids]

        server.stop()
        time.sleep(1.2 * LEASE_SECONDS)
        wait_until(lambda: f"{notices}: Redis does not answer" in caplog.text)
        server.start()
        go_on.set()
        enqueue(redis, id="new", text="ADA")
        result(redis, "new")
        time.sleep(RECLAIMING)
        lost = other.renew(held)
        other.close()
        wait_until(lambda: redis.xlen(KEYS.normal) == 0, 30)

    assert lost == []
