"""A job over the queue gives what one in this process gives, through every fault, and leaves nothing behind."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.bulk_tools import BulkProcess, bulk, digests, failures_of, row, rows_of, summary_of, write_jsonl
from tests.workers import DurableRedis, WorkerProcess, wait_until
from worker.bulk.exit_codes import DONE, DONE_WITH_FAILURES, STOPPED
from worker.client import Client
from worker.local_redis import free_port
from worker.protocol import Keys
from worker.settings import Settings

pytestmark = pytest.mark.integration
KEYS = Keys("test:")
COMMON = {"format": "jsonl", "shard_documents": 50}
SLOW = {"lease_seconds": 1, "max_batch_tokens": 20, "max_held_tokens": 60}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rows = [row(number, words=0) for number in range(400)]
    rows[20]["text"] = "!raise"
    rows[30]["id"] = "doc-1"
    rows[40]["id"] = "id\nof two lines \u2028"
    return write_jsonl(tmp_path / "corpus.jsonl", rows)


@pytest.fixture
def expected(corpus: Path) -> dict[str, str]:
    """What the same job gives in this process."""
    bulk("local", corpus, **COMMON)
    return digests(Path("local"))


@pytest.fixture
def worker(settings: Settings, store: Redis, tmp_path: Path) -> Iterator[WorkerProcess]:
    with WorkerProcess(settings, "load_capitals", tmp_path / "worker.log") as process:
        yield process.wait_until_ready()


def left_in(store: Redis) -> set[str]:
    """Keys of documents and answers, whoever's they are."""
    names = {key.decode() for key in store.scan_iter("test:*")}
    return {name for name in names if name.startswith(("test:result:", "test:reply:"))}


def start(out: str, corpus: Path, *flags: object, **environment: str) -> BulkProcess:
    common = ("--format", "jsonl", "--shard-documents", 50)
    return BulkProcess(corpus, "--output", out, *common, *flags, log=Path(f"{out}.log"), **environment)


def shards(out: str) -> int:
    return len(list(Path(out).glob(".job/part-?????.json")))


def test_the_output_of_two_workers_is_that_of_a_local_job_and_nothing_is_left_in_redis(
    corpus, expected, settings, store, tmp_path
):
    # Each holds but a few of the documents at a time, so that both get some.
    few = {"max_batch_tokens": 20, "max_held_tokens": 60}
    with (
        WorkerProcess(settings, "load_capitals", tmp_path / "first.log", **few) as first,
        WorkerProcess(settings, "load_capitals", tmp_path / "second.log", **few) as second,
    ):
        workers = [worker.wait_until_ready() for worker in (first, second)]

        assert bulk("out", corpus, local=False, **COMMON) == DONE_WITH_FAILURES

        # They are counted after they are answered.
        wait_until(lambda: all(worker.metric("gpner_documents_total") > 0 for worker in workers), 30)
    assert digests(Path("out")) == expected
    assert left_in(store) == set()
    assert [store.xlen(stream) for stream in KEYS.streams] == [0, 0, 0]
    assert store.xlen(KEYS.dead) == 1, "what failed in a worker is a dead letter, as always"
    assert {each["reason"]["type"] for each in failures_of(Path("out"))} == {"ValueError", "DuplicateId"}


def test_a_job_that_was_begun_locally_goes_on_over_the_queue(corpus, expected, worker):
    bulk("out", corpus, **COMMON, limit=120)

    assert bulk("out", corpus, local=False, **COMMON) == DONE_WITH_FAILURES

    assert digests(Path("out"))["part-00000.jsonl"] == expected["part-00000.jsonl"]
    assert [each["id"] for each in rows_of(Path("out"))] == [each["id"] for each in rows_of(Path("local"))]


def test_two_jobs_at_once_do_not_mix(tmp_path, worker, store):
    corpora = [
        write_jsonl(tmp_path / f"{name}.jsonl", [{"id": str(n), "text": f"{name} {n}"} for n in range(600)])
        for name in ("ONE", "TWO")
    ]
    jobs = [start(path.stem, path, "--keep", "text") for path in corpora]

    assert [job.wait(60) for job in jobs] == [DONE, DONE]

    for name in ("ONE", "TWO"):
        assert [each["text"] for each in rows_of(Path(name))] == [f"{name} {number}" for number in range(600)]
        assert {each["entities"][0]["text"] for each in rows_of(Path(name))} == {name}
    assert left_in(store) == set()


def test_without_workers_a_job_waits_and_says_so(corpus, expected, settings, store, tmp_path):
    job = start("out", corpus)
    wait_until(lambda: "no worker is to be seen: documents wait for one" in Path("out.log").read_text(), 20)
    wait_until(lambda: "0 documents, 0 tokens/s, 0 failures, 0 workers" in Path("out.log").read_text(), 20)

    with WorkerProcess(settings, "load_capitals", tmp_path / "worker.log"):
        assert job.wait(60) == DONE_WITH_FAILURES

    assert digests(Path("out")) == expected


def test_a_job_that_waits_for_workers_or_for_redis_can_be_ended_and_goes_on(corpus, expected, settings, tmp_path):
    (tmp_path / "redis").mkdir()
    server = DurableRedis(tmp_path / "redis", free_port())
    server.start()
    durable = settings.model_copy(update={"redis_url": Settings(redis_url=server.url).redis_url})
    try:
        for obstacle in ("no worker is to be seen", "Redis does not answer: documents wait"):
            job = start("out", corpus, GPNER_REDIS_URL=server.url)
            wait_until(lambda: "no worker is to be seen" in Path("out.log").read_text(), 20)
            if "Redis" in obstacle:
                server.kill()
            wait_until(lambda obstacle=obstacle: obstacle in Path("out.log").read_text(), 20)
            job.send_signal(signal.SIGTERM)
            assert job.wait(20) == STOPPED
            Path("out.log").unlink()
        server.start()
        with WorkerProcess(durable, "load_capitals", tmp_path / "worker.log"):
            assert start("out", corpus, GPNER_REDIS_URL=server.url).wait(60) == DONE_WITH_FAILURES
    finally:
        server.kill()

    assert digests(Path("out")) == expected


def test_a_full_queue_is_waited_for(corpus, expected, settings, store, tmp_path):
    store.xadd(KEYS.normal, {"id": "mine", "text": "WORD"})
    job = start("out", corpus, GPNER_MAX_QUEUED_DOCUMENTS="10")
    wait_until(lambda: store.xlen(KEYS.bulk) == 9, 20)

    with WorkerProcess(settings, "load_capitals", tmp_path / "worker.log"):
        assert job.wait(60) == DONE_WITH_FAILURES

    assert digests(Path("out")) == expected


@pytest.mark.parametrize("fault", ["flushall", "delete replies", "hostile replies"])
def test_what_redis_loses_is_sent_again_and_what_it_holds_besides_is_passed_over(
    corpus, expected, settings, store, tmp_path, fault
):
    with WorkerProcess(settings, "load_slow", tmp_path / "worker.log", **SLOW) as slow:
        job = start("out", corpus)
        wait_until(lambda: shards("out") > 0, 40)
        if fault == "flushall":
            store.flushall()
        elif fault == "delete replies":
            store.delete(*store.scan_iter(KEYS.reply("*")))
        else:
            store.set(KEYS.result("mine"), "{}", ex=100)
            (replies,) = store.scan_iter(KEYS.reply("*"))
            answer = {"v": 1, "id": "mine", "status": "failed", "error": {"type": "x", "message": "y"}}
            for result in (b"{", b"\xff", b"[]", b"{}", json.dumps(answer).encode()):
                store.xadd(replies, {"result": result})
            store.xadd(replies, {"else": "x"})
        slow.kill()

    with WorkerProcess(settings, "load_capitals", tmp_path / "worker.log", lease_seconds=1):
        assert job.wait(90) == DONE_WITH_FAILURES

    assert digests(Path("out")) == expected
    assert left_in(store) == ({KEYS.result("mine")} if fault == "hostile replies" else set())


def test_redis_may_be_away_for_a_while(corpus, expected, settings, tmp_path):
    (tmp_path / "redis").mkdir()
    server = DurableRedis(tmp_path / "redis", free_port())
    server.start()
    durable = settings.model_copy(update={"redis_url": Settings(redis_url=server.url).redis_url})
    try:
        with WorkerProcess(durable, "load_slow", tmp_path / "worker.log", **SLOW) as slow:
            job = start("out", corpus, GPNER_REDIS_URL=server.url)
            wait_until(lambda: shards("out") > 0, 40)
            server.kill()
            wait_until(lambda: "Redis does not answer" in Path("out.log").read_text(), 20)
            server.start()
            slow.kill()
        with WorkerProcess(durable, "load_capitals", tmp_path / "worker.log", lease_seconds=1):
            assert job.wait(90) == DONE_WITH_FAILURES
    finally:
        server.kill()

    assert digests(Path("out")) == expected


def test_jobs_and_workers_are_killed_and_others_go_on(corpus, expected, settings, store, tmp_path):
    for _ in range(3):
        with WorkerProcess(settings, "load_slow", tmp_path / "worker.log", **SLOW) as slow:
            before = shards("out")
            job = start("out", corpus)
            wait_until(lambda before=before: shards("out") > before, 40)
            slow.kill()
            job.kill()
            job.wait()

    with WorkerProcess(settings, "load_capitals", tmp_path / "worker.log", lease_seconds=1):
        assert bulk("out", corpus, local=False, **COMMON) == DONE_WITH_FAILURES

    assert digests(Path("out")) == expected
    assert left_in(store) == set()
    assert store.xlen(KEYS.bulk) == 0


def test_answers_that_came_after_a_kill_are_found_and_nothing_is_read_twice(
    corpus, expected, settings, store, tmp_path
):
    job = start("out", corpus)
    wait_until(lambda: store.xlen(KEYS.bulk) == 399)
    job.kill()
    job.wait()
    with WorkerProcess(settings, "load_capitals", tmp_path / "worker.log").wait_until_ready() as worker:
        # They are counted after they are answered.
        wait_until(lambda: worker.metric("gpner_documents_total") == 399, 30)

        assert bulk("out", corpus, local=False, **COMMON) == DONE_WITH_FAILURES

        assert worker.metric("gpner_documents_total") == 399
    assert digests(Path("out")) == expected
    assert left_in(store) == set()


def test_the_first_signal_ends_after_what_is_under_way_over_the_queue_too(corpus, expected, settings, store, tmp_path):
    with WorkerProcess(settings, "load_slow", tmp_path / "worker.log", **SLOW):
        job = start("out", corpus)
        wait_until(lambda: shards("out") > 3, 40)  # so that the rest takes a few seconds only
        job.send_signal(signal.SIGINT)

        assert job.wait(60) == STOPPED

        assert "finishing what is under way" in Path("out.log").read_text()
        assert store.xlen(KEYS.bulk) == 0
        assert bulk("out", corpus, local=False, **COMMON) == DONE_WITH_FAILURES
    assert digests(Path("out")) == expected


def test_a_stop_does_not_wait_for_slow_workers_and_what_they_do_meanwhile_is_found(settings, store, tmp_path):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [row(number, words=300) for number in range(20)])
    bulk("local", corpus, **COMMON)
    with WorkerProcess(settings, "load_slow", tmp_path / "slow.log", **SLOW) as slow:
        slow.wait_until_ready()
        job = start("out", corpus)
        wait_until(lambda: store.xlen(KEYS.bulk) == 20, 30)
        job.send_signal(signal.SIGTERM)

        assert job.wait(60) == STOPPED, "at nine seconds a document, all of them take minutes"

    assert 0 < store.xlen(KEYS.bulk) <= 20
    with WorkerProcess(settings, "load_capitals", tmp_path / "fast.log", lease_seconds=1):
        assert start("out", corpus).wait(60) == DONE
    assert digests(Path("out")) == digests(Path("local"))
    assert left_in(store) == set()


def test_when_workers_come_to_serve_another_model_the_job_stops_and_goes_on_with_the_first(settings, store, tmp_path):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [row(number, words=0) for number in range(400)])
    with WorkerProcess(settings, "load_named", tmp_path / "worker.log", model="first", **SLOW) as first:
        job = start("out", corpus)
        wait_until(lambda: shards("out") > 0, 40)
        first.kill()
    with WorkerProcess(settings, "load_named", tmp_path / "worker.log", model="second", lease_seconds=1):
        assert job.wait(40) == STOPPED
        assert "begun with first" in Path("out.log").read_text()
        assert "now answers come from second" in Path("out.log").read_text()
        wait_until(lambda: store.xlen(KEYS.bulk) == 0, 30)

    with WorkerProcess(settings, "load_named", tmp_path / "worker.log", model="first"):
        assert bulk("out", corpus, local=False, **COMMON) == DONE

    assert {each["model"] for each in rows_of(Path("out"))} == {"first"}
    assert [each["id"] for each in rows_of(Path("out"))] == [f"doc-{number}" for number in range(400)]


def test_failures_can_be_tried_again_over_the_queue(tmp_path, settings, store):
    rows = [{"id": str(number), "text": "!raise" if number % 2 else "ABC"} for number in range(20)]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows)
    with WorkerProcess(settings, "load_capitals", tmp_path / "worker.log"):
        assert bulk("out", corpus, local=False, **COMMON) == DONE_WITH_FAILURES
    with WorkerProcess(settings, "load_noop", tmp_path / "worker.log"):
        assert bulk("out", corpus, local=False, **COMMON, retry_failures=True) == DONE

    assert sorted(int(each["id"]) for each in rows_of(Path("out"))) == list(range(20))
    assert summary_of(Path("out"))["failures"] == {}
    assert left_in(store) == set()


def test_others_are_served_while_a_job_runs(corpus, worker, settings):
    job = start("out", corpus)
    with Client(settings) as client:
        started = time.monotonic()
        assert client.extract("ADA").entities[0].text == "ADA"
        assert time.monotonic() - started < 10
    assert job.wait(60) == DONE_WITH_FAILURES
