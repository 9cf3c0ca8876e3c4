"""Between Celery and Redis: a Redis that refuses to write, and messages that are none."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from celery.app.task import Context
from kombu import Connection
from kombu.simple import SimpleQueue
from redis import Redis

from tests.callers import call, celery_app, ended
from tests.workers import DurableRedis, WorkerProcess, immortal_keys, wait_until
from worker import broker
from worker.connection import connect
from worker.local_redis import LocalRedis, free_port
from worker.protocol import Keys
from worker.settings import RedisUrl, Settings

KEYS = Keys("test:")
SLOW = {"max_batch_tokens": 50, "max_held_tokens": 200, "drain_seconds": 2}
THREADS = 32
# Ways in which Redis comes to refuse writes, and each undone.
REFUSALS = {
    "memory full": ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0"),
    "replica": ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
    "no replicas": ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
}


@pytest.fixture
def server() -> Iterator[LocalRedis]:
    """A Redis of the test's own, which may be spoilt."""
    with LocalRedis() as server:
        yield server


@pytest.fixture
def own(settings: Settings, server: LocalRedis) -> Settings:
    return settings.model_copy(update={"redis_url": RedisUrl(server.url)})


@pytest.fixture
def store(own: Settings) -> Iterator[Redis]:
    """That server; afterwards only streams, and what Celery's transport needs, may live for ever."""
    with connect(own.redis_url) as connection:
        yield connection
        assert immortal_keys(own) <= {*KEYS.streams, KEYS.dead}


def answers(store: Redis) -> list[Any]:
    return [json.loads(store.get(key) or b"") for key in store.scan_iter("test:celery-task-meta-*")]


def done_documents(store: Redis) -> int:
    return len(list(store.scan_iter(KEYS.result("*"))))


def refused_calls(worker: WorkerProcess) -> bool:
    return "calls wait until Redis writes again" in worker.log.read_text()


def refused(worker: WorkerProcess) -> bool:
    """Whether anything was: where no results can be written either, it may be that no call ends just then."""
    return refused_calls(worker) or "refused a command" in worker.log.read_text()


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("refusal", REFUSALS)
def test_calls_outlast_a_redis_that_refuses_to_write(own: Settings, store: Redis, tmp_path: Path, refusal: str) -> None:
    begin, end = REFUSALS[refusal]
    with WorkerProcess(own, "load_slow", tmp_path / "log", **SLOW) as worker:
        worker.wait_until_ready()
        # More than run at once, so that some are popped, some answered and some acknowledged just then.
        tasks = [call(own, ["ADA two three"] * 2) for _ in range(THREADS + 8)]
        wait_until(lambda: done_documents(store) > 10)
        store.execute_command(*begin.split())
        wait_until(lambda: refused(worker))
        store.execute_command(*end.split())
        results = [ended(store, task) for task in tasks]
        late = ended(store, call(own, ["ADA"]))

        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0

    assert [len(result["result"]) for result in results] == [2] * (THREADS + 8)
    assert late["status"] == "SUCCESS"
    assert worker.log.read_text().count("calls wait until Redis writes again") < 10


@pytest.mark.integration
@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_worker_whose_connections_break_while_redis_refuses_to_write_gets_new_ones(
    own: Settings, store: Redis, tmp_path: Path, refusal: str
) -> None:
    begin, end = REFUSALS[refusal]
    with WorkerProcess(own, "load_capitals", tmp_path / "log") as worker:
        worker.wait_until_ready()
        store.execute_command(*begin.split())
        for kind in ("normal", "pubsub"):
            store.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        wait_until(lambda: refused_calls(worker), 20)
        store.execute_command(*end.split())

        assert ended(store, call(own, ["ADA"]))["status"] == "SUCCESS"
    assert "Frequent restarts" not in worker.log.read_text()


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("refusal", REFUSALS)
def test_calls_of_a_worker_that_ends_while_redis_refuses_to_write_go_to_another(
    own: Settings, store: Redis, tmp_path: Path, refusal: str
) -> None:
    begin, end = REFUSALS[refusal]
    with WorkerProcess(own, "load_slow", tmp_path / "one", **SLOW) as one:
        one.wait_until_ready()
        for _ in range(THREADS):
            call(own, ["ADA two three"] * 2)
        wait_until(lambda: done_documents(store) > 10)
        # A call that is popped and not yet noted is lost with its worker: kombu's promise, not ours.
        wait_until(lambda: store.hlen("test:unacked") + len(answers(store)) == THREADS)
        store.execute_command(*begin.split())
        wait_until(lambda: refused(one))
        one.signal(signal.SIGTERM)
        assert one.wait() == 0
        store.execute_command(*end.split())
    # As if the visibility timeout had passed. A worker looks when it starts, and then every five seconds.
    noted = store.zrange("test:unacked_index", 0, -1)
    store.zadd("test:unacked_index", dict.fromkeys(noted, 0))
    with WorkerProcess(own, "load_capitals", tmp_path / "two", lease_seconds=1):
        wait_until(lambda: len(answers(store)) == THREADS and not store.exists("test:unacked"), 20)

    assert noted
    assert {answer["status"] for answer in answers(store)} == {"SUCCESS"}


@pytest.mark.integration
def test_a_call_popped_just_as_memory_runs_out_is_kept(own: Settings, store: Redis, tmp_path: Path) -> None:
    other = own.model_copy(update={"namespace": f"{own.namespace}other:"})
    with WorkerProcess(own, "load_capitals", tmp_path / "log") as worker:
        worker.wait_until_ready()
        task = call(other, ["ADA"])
        with store.pipeline() as step:
            step.rpoplpush("test:other:tasks", "test:tasks")
            step.config_set("maxmemory", 1)
            step.execute()
        wait_until(lambda: refused_calls(worker))
        store.config_set("maxmemory", 0)

        result = ended(store, task)

    store.delete(*store.scan_iter("test:other:*"))
    assert result["status"] == "SUCCESS"


@pytest.mark.integration
def test_a_worker_that_finds_redis_full_starts_and_frees_it(own: Settings, store: Redis, tmp_path: Path) -> None:
    with WorkerProcess(own, "load_capitals", tmp_path / "first") as first:
        first.wait_until_ready()
    for number in range(50):
        store.xadd(KEYS.normal, {"id": str(number), "text": "ADA"})
    store.config_set("maxmemory", 1)

    with WorkerProcess(own, "load_capitals", tmp_path / "second"):
        wait_until(lambda: not store.xlen(KEYS.normal), 20)
    store.config_set("maxmemory", 0)


HOSTILE = {
    "no JSON": b"junk",
    "no object": b"[1]",
    "an empty object": b"{}",
    "too deep": b"[" * 100_000,
    "no UTF-8": b'"\xff"',
    "a date that is none": b'{"__type__": "datetime", "__value__": 3}',
    "a list for an id": json.dumps(
        {
            "body": "W1siQURBIl0sIHt9LCB7fV0=",
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {"task": "gpner.extract", "id": ["x"]},
            "properties": {
                "delivery_tag": "1",
                "delivery_info": {"exchange": "", "routing_key": "tasks"},
                "body_encoding": "base64",
            },
        }
    ).encode(),
}


@pytest.mark.integration
def test_what_is_no_message_is_counted_and_deleted_and_the_worker_goes_on(
    own: Settings, store: Redis, tmp_path: Path
) -> None:
    with WorkerProcess(own, "load_capitals", tmp_path / "log") as worker:
        worker.wait_until_ready()
        for message in HOSTILE.values():
            store.lpush("test:tasks", message)
            store.publish("test:/0.celery.pidbox", message)
        result = ended(store, call(own, ["ADA"]))
        with celery_app(own) as app:
            # Celery subscribes anew after a command that it could not understand, and hears none meanwhile.
            wait_until(lambda: app.control.broadcast("held", reply=True, timeout=1, limit=1), 15, "an answer")

    log = worker.log.read_text()
    assert result["status"] == "SUCCESS"
    assert log.count("a message that is no task was deleted") >= len(HOSTILE)
    assert f"the {len(HOSTILE)}. here" in log
    assert "a message that is no task was put back once" in log
    assert "junk" not in log


@pytest.fixture
def worker() -> Iterator[None]:
    """This process counts as a worker at work."""
    broker.working.set()
    yield
    broker.working.clear()


def test_an_answer_that_a_chord_waits_for_is_counted_when_redis_has_memory_again(
    own: Settings, store: Redis, worker: None
) -> None:
    part = Context(id="1", group="a", group_index=0)
    with celery_app(own) as app, ThreadPoolExecutor() as pool:
        app.conf.result_backend_transport_options = {"global_keyprefix": own.namespace}
        backend = broker.Backend(app=app, url=own.redis_url.get_secret_value())
        store.config_set("maxmemory", 1)
        counted = pool.submit(backend.on_chord_part_return, part, "SUCCESS", [])
        wait_until(lambda: broker._waiting or counted.done())
        store.config_set("maxmemory", 0)
        counted.result(10)

    assert [store.zcard(key) for key in store.scan_iter("test:celery-taskset-meta-*")] == [1]


@pytest.mark.parametrize("end", ["ack", "requeue"])
def test_a_message_that_ends_while_redis_is_away_ends_when_it_is_back(tmp_path: Path, worker: None, end: str) -> None:
    server = DurableRedis(tmp_path, free_port())
    server.start()
    with (
        Connection(server.url, transport="worker.broker:Transport") as connection,
        SimpleQueue(connection, "calls") as queue,
        Redis.from_url(server.url) as store,
        ThreadPoolExecutor() as pool,
    ):
        queue.put("one")
        message = queue.get(timeout=10)
        assert store.hlen("unacked") == 1
        server.stop()
        ended = pool.submit(getattr(message, end))
        time.sleep(0.1)
        server.start()
        ended.result(20)

        assert (store.hlen("unacked"), store.llen("calls")) == (0, end == "requeue")
    server.kill()


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # by Celery
@pytest.mark.parametrize("step", ["answer", "part of a chord", "next of a chain"])
def test_what_follows_a_call_is_done_when_redis_is_back(
    settings: Settings, tmp_path: Path, worker: None, step: str
) -> None:
    server = DurableRedis(tmp_path, free_port())
    server.start()
    own = settings.model_copy(update={"redis_url": RedisUrl(server.url)})
    part = Context(id="1", group="a", group_index=0)
    with celery_app(own) as app, Redis.from_url(server.url) as store, ThreadPoolExecutor() as pool:
        app.conf.result_backend_transport_options = {}
        backend = broker.Backend(app=app, url=server.url)
        with Connection(server.url, transport="worker.broker:Transport") as connection:
            queue = connection.SimpleQueue("calls")
            todo: dict[str, Callable[[], Any]] = {
                "answer": lambda: backend.store_result("1", [], "SUCCESS"),
                "part of a chord": lambda: backend.on_chord_part_return(part, "SUCCESS", []),
                "next of a chain": lambda: queue.put("one"),
            }
            server.stop()
            done = pool.submit(todo[step])
            time.sleep(0.1)
            server.start()
            done.result(20)
            queue.close()

        keys = {
            "answer": "celery-task-meta-1",
            "part of a chord": "celery-taskset-meta-a.j",
            "next of a chain": "calls",
        }
        assert {key.decode() for key in store.scan_iter() if not key.startswith(b"_kombu")} == {keys[step]}
    server.kill()


def test_a_program_that_is_no_worker_does_not_wait(redis_server: LocalRedis) -> None:
    def refuse() -> None:
        raise redis.OutOfMemoryError("command not allowed")

    with pytest.raises(redis.ConnectionError, match="Redis refuses to write: command not allowed"):
        broker.until_taken(refuse)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("MISCONF Redis is configured to save RDB snapshots", True),
        ("Command # 1 (HSET k v) of pipeline caused error: NOREPLICAS Not enough good replicas", True),
        ("Error running script (call to f_1): @user_script:2: -OOM command not allowed", True),
        ("Command # 1 (HSET k OOM ) of pipeline caused error: WRONGTYPE Operation against a key", False),
        ("NOSCRIPT No matching script", False),
    ],
)
def test_only_a_refusal_for_redis_own_state_is_waited_out(words: str, expected: bool) -> None:
    assert broker.refuses_writes(redis.ResponseError(words)) is expected
