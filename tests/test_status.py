"""What operators are shown of streams and workers, from Redis alone."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

from gpner.errors import ServiceError
from tests.consumers import LEASE_SECONDS, Join, add, done, wait_out_the_lease
from tests.workers import WorkerProcess, wait_until
from worker.local_redis import LocalRedis
from worker.presence import Presence, Report, reports
from worker.queue import DocumentQueue
from worker.settings import RedisUrl, Settings
from worker.status import STALE_SECONDS, Status, StreamStatus, read_status


def report(documents_ended: int = 0, state: str = "reading") -> Report:
    return Report(state=state, device="cpu", batch_tokens=4096, tokens_held=0, documents_ended=documents_ended)


@contextmanager
def announcing(queue: DocumentQueue, describe: Callable[[], Report]) -> Iterator[None]:
    """The worker's announcements while the block lasts; they have begun when it is entered."""
    ended = threading.Event()
    thread = threading.Thread(target=Presence(queue, describe, ended).run)
    thread.start()
    try:
        wait_until(lambda: queue.consumer in reports(queue.redis, queue.keys))
        yield
    finally:
        ended.set()
        thread.join()


def counts(stream: StreamStatus) -> tuple[int, int, int]:
    return stream.unfinished, stream.waiting, stream.processing


def test_before_any_worker_and_any_document_there_is_nothing_and_nothing_is_made(
    settings: Settings, redis: Redis
) -> None:
    queue = DocumentQueue(settings, consumer="status")

    status = read_status(queue)

    queue.close()
    assert [counts(stream) for stream in status.streams] == [(0, 0, 0)] * 3
    assert (status.workers, status.dead_letters, status.documents_per_second, status.drained_in_seconds) == (
        [], 0, 0.0, 0.0,
    )  # fmt: skip
    assert (status.used_bytes > 0, status.limit_bytes) == (True, None)
    assert list(redis.scan_iter()) == []


def test_documents_that_were_added_before_any_worker_wait(settings: Settings, redis: Redis) -> None:
    queue = DocumentQueue(settings, consumer="status")
    add(queue, 2)

    _, normal, _ = read_status(queue).streams

    queue.close()
    assert counts(normal) == (2, 2, 0)


def test_what_workers_hold_is_told_from_what_waits(queue: DocumentQueue) -> None:
    add(queue, 5)
    entries = queue.read(3, 0)
    queue.release(entries[:1])
    queue.commit([done(queue, entries[1])])

    status = read_status(queue)

    _, normal, _ = status.streams
    assert counts(normal) == (4, 3, 1)
    assert [(worker.name, worker.state, worker.documents_held) for worker in status.workers] == [("ada", "at work", 2)]


def test_documents_of_a_worker_that_is_gone_wait(queue: DocumentQueue) -> None:
    add(queue, 2)
    queue.read(1, 0)
    wait_out_the_lease()

    status = read_status(queue)

    assert counts(status.streams[1]) == (2, 2, 0)
    (ada,) = status.workers
    assert (ada.state, ada.documents_held, ada.silent_seconds > LEASE_SECONDS) == ("gone", 1, True)


def test_each_stream_has_an_age_of_its_own(queue: DocumentQueue) -> None:
    seconds, microseconds = queue.redis.time()
    now = 1000 * seconds + microseconds // 1000
    queue.redis.xadd(queue.keys.high, {"id": "1", "text": "x"}, id=f"{now - 5_000}-0")
    queue.redis.xadd(queue.keys.bulk, {"id": "2", "text": "x"}, id=f"{now - 60_000}-0")

    ages = [stream.oldest_age_seconds for stream in read_status(queue).streams]

    assert ages == [pytest.approx(5, abs=2), 0, pytest.approx(60, abs=2)]


def test_a_worker_says_what_it_does_and_how_fast(queue: DocumentQueue, join: Join) -> None:
    started = time.monotonic()
    add(queue, 40)

    with announcing(queue, lambda: report(int(20 * (time.monotonic() - started)))), announcing(join("bob"), report):
        wait_until(lambda: (read_status(queue).documents_per_second or 0) > 0)
        status = read_status(queue)

    ada, bob = status.workers
    assert ada.report is not None
    assert ada.report.documents_per_second == pytest.approx(20, rel=0.2)
    assert bob.report == report()
    assert status.documents_per_second == ada.report.documents_per_second
    assert status.drained_in_seconds == pytest.approx(40 / ada.report.documents_per_second)


def test_nothing_gets_done_means_no_end(queue: DocumentQueue) -> None:
    add(queue)

    with announcing(queue, report):
        assert read_status(queue).drained_in_seconds is None


def test_a_worker_that_does_not_read_is_there_all_the_same(settings: Settings, redis: Redis) -> None:
    queue = DocumentQueue(settings, consumer="ada")

    with announcing(queue, lambda: report(state="loading")):
        (ada,) = read_status(queue).workers

    queue.close()
    assert (ada.name, ada.state, ada.documents_held) == ("ada", "loading", 0)


def test_the_rate_of_a_worker_that_went_silent_does_not_count(queue: DocumentQueue) -> None:
    long_ago = int(1000 * (time.time() - STALE_SECONDS - 1))
    fast = report().model_copy(update={"documents_per_second": 50.0}).model_dump_json()
    queue.redis.hset(queue.keys.workers, "ada", f"{long_ago} {fast}")
    queue.redis.expire(queue.keys.workers, 60)

    assert read_status(queue).documents_per_second == 0.0


def test_workers_that_say_nothing_have_no_rate(queue: DocumentQueue) -> None:
    add(queue)
    queue.read(1, 0)

    status = read_status(queue)

    assert (status.documents_per_second, status.drained_in_seconds) == (None, None)


def test_reports_that_nobody_can_read_and_old_ones_are_passed_over_and_go(queue: DocumentQueue) -> None:
    queue.redis.hset(queue.keys.workers, mapping={"a": "", "b": b"\xff", "c": "x y", "d": "5 {}", "e": "[red]"})

    queue.announce(report().model_dump_json())

    assert list(reports(queue.redis, queue.keys)) == ["ada"]
    assert queue.redis.hkeys(queue.keys.workers) == [b"ada"]
    assert 0 < queue.redis.ttl(queue.keys.workers) <= 60


def test_a_worker_that_leaves_says_nothing_any_more(queue: DocumentQueue) -> None:
    queue.announce(report().model_dump_json())

    queue.leave()

    assert reports(queue.redis, queue.keys) == {}


def test_announcing_goes_on_when_redis_is_back(queue: DocumentQueue) -> None:
    with announcing(queue, report):
        queue.redis.delete(queue.keys.workers)
        queue.redis.set(queue.keys.workers, "in the way", ex=60)
        time.sleep(1.2)  # at least one announcement fails
        queue.redis.delete(queue.keys.workers)

        wait_until(lambda: "ada" in reports(queue.redis, queue.keys))


def test_a_redis_that_refuses_is_an_error_and_not_an_empty_service(queue: DocumentQueue) -> None:
    queue.redis.execute_command("ACL", "SETUSER", "limited", "on", ">secret", "~*", "+@all", "-xinfo")
    url = queue.url.get_secret_value().replace("redis://", "redis://limited:secret@")
    limited = DocumentQueue(Settings(redis_url=RedisUrl(url), namespace="test:"), consumer="status")
    try:
        with pytest.raises(ServiceError, match="no permissions"):
            read_status(limited)
    finally:
        limited.close()
        queue.redis.execute_command("ACL", "DELUSER", "limited")


@pytest.mark.integration
def test_a_real_worker_is_shown_with_its_model_and_rate(settings: Settings, tmp_path: Path) -> None:
    with LocalRedis() as server:
        own = settings.model_copy(update={"redis_url": RedisUrl(server.url)})
        queue = DocumentQueue(own, consumer="status")
        with WorkerProcess(own, "load_slow", tmp_path / "worker.log", max_batch_tokens=30):
            add(queue, 3000, text="ADA in LONDON")
            wait_until(lambda: (read_status(queue).documents_per_second or 0) > 0, 30)
            status = read_status(queue)
        queue.close()

    (worker,) = status.workers
    assert worker.report is not None
    assert (worker.state, worker.report.device, worker.report.model) == ("reading", "cpu", "capitals")
    assert status.documents_per_second is not None
    assert status.documents_per_second < 40, "a hundred tokens a second, three a document"
    assert 1 <= worker.documents_held == status.streams[1].processing
    assert Status.model_validate_json(status.model_dump_json()) == status
