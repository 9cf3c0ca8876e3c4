"""A real worker and a real producer behind three sentinels, while the master is killed."""

import gc
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from gpner.errors import ServiceError
from tests.ops.sentinels import Guarded
from tests.secure_redis import secure_server
from tests.workers import WorkerProcess, wait_until
from worker import broker
from worker.app import celery_configuration
from worker.client import Client
from worker.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.slow]
DOCUMENTS = 400
PASSWORD = "p%/assword"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    with Guarded(tmp_path, password=PASSWORD) as servers:
        yield servers


@pytest.fixture
def behind_sentinels(settings: Settings, guarded: Guarded) -> Settings:
    """The settings of a service whose Redis the sentinels name."""
    return Settings(redis_url=guarded.url(), namespace="test:")


def submit_through_anything(client: Client, ids: list[str]) -> None:
    """A producer that submits again under the same id whatever was not acknowledged."""
    for document_id in ids:
        while True:
            try:
                client.submit(f"document {document_id} of ADA", id=document_id)
                break
            except ServiceError:
                continue


def test_worker_and_producer_follow_the_master_and_nothing_is_lost(
    guarded: Guarded, behind_sentinels: Settings, tmp_path: Path
) -> None:
    ids = [f"{number}" for number in range(DOCUMENTS)]
    old = guarded.master()
    with (
        Client(behind_sentinels) as client,
        WorkerProcess(
            behind_sentinels, "load_slow", tmp_path / "log", max_held_tokens=64, max_batch_tokens=16
        ) as worker,
    ):
        worker.wait_until_ready()
        producer = threading.Thread(target=submit_through_anything, args=(client, ids))
        producer.start()
        wait_until(lambda: worker.metric("gpner_documents_total", outcome="done") > 20)
        old.signal(signal.SIGKILL)
        new = guarded.wait_for_another_than(old)
        producer.join()
        entities = {document_id: client.result(document_id, timeout_seconds=60).entities for document_id in ids}

        assert new.port != old.port
        assert all([entity.text for entity in found] == ["ADA"] for found in entities.values())
        assert worker.metric("gpner_queue_depth") == 0
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0


def test_a_call_of_the_celery_task_is_answered_after_a_failover(
    guarded: Guarded, behind_sentinels: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever logs in to Redis for Celery looks there.
    monkeypatch.setenv("GPNER_REDIS_URL", behind_sentinels.redis_url.get_secret_value())
    old = guarded.master()
    caller = Celery("caller", set_as_current=False)
    broker.install(caller)
    caller.conf.update(celery_configuration(behind_sentinels))
    with WorkerProcess(behind_sentinels, "load_slow", tmp_path / "log") as worker:
        worker.wait_until_ready()
        call = caller.send_task("gpner.extract", [["ADA " * 300]])
        wait_until(lambda: worker.metric("gpner_documents_in_flight") > 0)
        old.signal(signal.SIGKILL)
        guarded.wait_for_another_than(old)

        (answer,) = call.get(timeout=60)
        wait_until(lambda: caller.control.inspect(timeout=1).stats(), 30, "an answer to an operator")
        # A call that is forgotten tells Redis so: at once, and not when Redis is gone.
        del call
        gc.collect()

    assert len(answer["entities"]) == 300


@pytest.mark.skipif(secure_server() is None, reason="no redis-server of version 7 or newer with TLS on PATH")
def test_through_a_failover_no_user_of_ops_redis_asks_for_a_right_that_it_lacks(
    settings: Settings, tmp_path: Path
) -> None:
    with (
        Guarded(tmp_path, password=PASSWORD, users=True) as guarded,
        Client(Settings(redis_url=guarded.url("producer")), replicas=1) as client,
    ):
        old = guarded.master()
        client.submit("document before of ADA", id="before")
        old.signal(signal.SIGKILL)
        guarded.wait_for_another_than(old)
        submit_through_anything(client, ["after"])
        with WorkerProcess(Settings(redis_url=guarded.url("worker")), "load_capitals", tmp_path / "log"):
            entities = [client.result(document_id, timeout_seconds=60).entities for document_id in ("before", "after")]
        refused = [server.client.acl_log() for server in guarded.servers if server is not old]

    assert [entity.text for found in entities for entity in found] == ["ADA", "ADA"]
    assert refused == [[], []]
