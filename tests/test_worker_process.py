"""Real worker processes on a real Redis: shared work, signals, kills, hangs, and Redis going away."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.workers import ROOT, DurableRedis, WorkerProcess, wait_until
from worker.client import Client
from worker.connection import connect
from worker.protocol import Keys
from worker.settings import RedisUrl, Settings

pytestmark = pytest.mark.integration

KEYS = Keys("test:")
# A worker that was killed is replaced within a second.
SHORT_LEASE = {"lease_seconds": 0.9, "max_batch_tokens": 20, "max_held_tokens": 80}


def results(store: Redis) -> dict[str, Any]:
    names = list(store.scan_iter(KEYS.result("*")))
    return {name.decode().removeprefix(KEYS.result("")): json.loads(store.get(name)) for name in names}


def submit(settings: Settings, texts: list[str], reply_to: str | None = None) -> list[str]:
    with Client(settings) as client:
        return [client.submit(text, id=str(number), reply_to=reply_to) for number, text in enumerate(texts)]


def statuses(store: Redis) -> list[str]:
    return sorted(answer["status"] for answer in results(store).values())


def nothing_is_left(store: Redis) -> bool:
    if any(store.xlen(stream) for stream in KEYS.streams):
        return False
    return not any(store.xpending(stream, KEYS.group)["pending"] for stream in KEYS.streams)


def test_a_worker_becomes_ready_answers_and_ends_cleanly_on_sigterm(
    settings: Settings, store: Redis, tmp_path: Path
) -> None:
    url = settings.redis_url.get_secret_value().replace("redis://", "redis://default:hidden-word@")
    with WorkerProcess(settings, "load_late", tmp_path / "log", redis_url=url) as worker:
        wait_until(lambda: worker.port)
        loading = worker.get("/readyz"), worker.get("/livez")
        worker.wait_until_ready()
        submit(settings, ["ADA in LONDON"])
        wait_until(lambda: results(store))
        counted = worker.metric("gpner_documents_total", outcome="done"), worker.metric("gpner_ready")

        worker.signal(signal.SIGTERM)

        assert worker.wait() == 0
    assert loading == ((503, "the model is loading\n"), (200, "ok\n"))
    assert counted == (1, 1)
    assert [entity["text"] for entity in results(store)["0"]["entities"]] == ["ADA", "LONDON"]
    assert nothing_is_left(store)
    assert store.xinfo_consumers(KEYS.normal, KEYS.group) == []
    log = worker.log.read_text()
    assert "ADA" not in log
    assert "hidden-word" not in log
    assert "Traceback" not in log


def test_two_workers_share_the_queue_and_both_work(settings: Settings, store: Redis, tmp_path: Path) -> None:
    options = {"max_batch_tokens": 10, "max_held_tokens": 40}
    with (
        WorkerProcess(settings, "load_slow", tmp_path / "one", **options) as one,
        WorkerProcess(settings, "load_slow", tmp_path / "two", **options) as two,
    ):
        one.wait_until_ready()
        two.wait_until_ready()
        submit(settings, ["one TWO three"] * 60)

        wait_until(lambda: nothing_is_left(store))

        shares = [worker.metric("gpner_documents_total", outcome="done") for worker in (one, two)]
    assert sum(shares) == 60
    assert min(shares) > 10


def test_sigterm_under_load_finishes_what_is_held_and_leaves_the_rest(
    settings: Settings, store: Redis, tmp_path: Path
) -> None:
    with WorkerProcess(settings, "load_slow", tmp_path / "log", max_batch_tokens=20, max_held_tokens=80) as worker:
        worker.wait_until_ready()
        submit(settings, ["one TWO three"] * 200)
        wait_until(lambda: len(results(store)) > 5)

        worker.signal(signal.SIGTERM)
        wait_until(lambda: worker.get("/readyz") == (503, "draining\n"))

        assert worker.wait() == 0
    assert 5 < len(results(store)) < 200
    assert len(results(store)) + store.xlen(KEYS.normal) == 200
    assert store.xpending(KEYS.normal, KEYS.group)["pending"] == 0


def test_a_killed_workers_documents_are_finished_by_another_and_none_is_answered_twice(
    settings: Settings, store: Redis, tmp_path: Path
) -> None:
    texts = [f"NUMBER {number} three" for number in range(120)]
    with (
        WorkerProcess(settings, "load_slow", tmp_path / "one", **SHORT_LEASE) as one,
        WorkerProcess(settings, "load_slow", tmp_path / "two", **SHORT_LEASE) as two,
    ):
        one.wait_until_ready()
        two.wait_until_ready()
        submit(settings, texts, reply_to=KEYS.reply("all"))
        wait_until(lambda: len(results(store)) > 10 and one.metric("gpner_documents_in_flight") > 0)

        one.signal(signal.SIGKILL)
        wait_until(lambda: nothing_is_left(store), 20)

        assert two.metric("gpner_redelivered_total") > 0
    replies = [json.loads(fields[b"result"])["id"] for _, fields in store.xrange(KEYS.reply("all"))]
    assert sorted(replies) == sorted(results(store)) == sorted(str(number) for number in range(120))
    assert set(statuses(store)) == {"done"}


def test_a_stopped_worker_that_comes_back_undoes_nothing(settings: Settings, store: Redis, tmp_path: Path) -> None:
    with WorkerProcess(settings, "load_slow", tmp_path / "one", lease_seconds=0.9) as zombie:
        zombie.wait_until_ready()
        submit(settings, ["word " * 100] * 3, reply_to=KEYS.reply("all"))
        wait_until(lambda: store.xpending(KEYS.normal, KEYS.group)["pending"] == 3)
        zombie.signal(signal.SIGSTOP)
        with WorkerProcess(settings, "load_capitals", tmp_path / "two", lease_seconds=0.9):
            wait_until(lambda: nothing_is_left(store))
        before = results(store)

        zombie.signal(signal.SIGCONT)
        zombie.signal(signal.SIGTERM)

        assert zombie.wait() == 0
    assert results(store) == before
    assert store.xlen(KEYS.reply("all")) == 3
    assert statuses(store) == ["done"] * 3


def test_a_document_that_kills_its_worker_is_buried_and_takes_no_other_down(
    settings: Settings, store: Redis, tmp_path: Path
) -> None:
    texts = [f"NUMBER {number}" for number in range(12)]
    texts[5] += " !crash"
    submit(settings, texts)

    crashes = 0
    while not nothing_is_left(store):
        options = {**SHORT_LEASE, "max_deliveries": 3}
        with WorkerProcess(settings, "load_capitals", tmp_path / f"log{crashes}", **options) as worker:
            wait_until(lambda worker=worker: nothing_is_left(store) or worker.ended(), 20)
            crashes += worker.ended() == -signal.SIGSEGV

    assert crashes == 3
    answers = results(store)
    assert answers["5"]["error"]["type"] == "TooManyDeliveries"
    assert [name for name, answer in answers.items() if answer["status"] == "failed"] == ["5"]
    assert len(answers) == 12


def test_a_forward_that_hangs_ends_the_process_and_its_document_stays_to_be_taken_over(
    settings: Settings, store: Redis, tmp_path: Path
) -> None:
    submit(settings, ["please !hang"])
    with WorkerProcess(settings, "load_capitals", tmp_path / "one", forward_deadline_seconds=0.5) as worker:
        code = worker.wait()

    assert code == 70
    assert "past its deadline of 0.5 s" in worker.log.read_text()
    assert store.xpending(KEYS.normal, KEYS.group)["pending"] == 1


def test_a_broken_engine_ends_the_process_instead_of_burying_the_queue(
    settings: Settings, store: Redis, tmp_path: Path
) -> None:
    submit(settings, ["one", "two", "three"])
    with WorkerProcess(settings, "load_broken", tmp_path / "log") as worker:
        code = worker.wait()

    assert code == 70
    assert "the engine fails on every document" in worker.log.read_text()
    assert store.xlen(KEYS.dead) == 0
    assert store.xlen(KEYS.normal) == 3


def test_redis_stopped_and_killed_in_the_middle_loses_nothing(settings: Settings, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = DurableRedis(tmp_path, port)
    server.start()
    durable = settings.model_copy(update={"redis_url": RedisUrl(f"redis://127.0.0.1:{port}/0")})
    with connect(durable.redis_url) as store:
        submit(durable, ["one TWO three"] * 100, reply_to=KEYS.reply("all"))
        with WorkerProcess(durable, "load_slow", tmp_path / "log", max_batch_tokens=20, max_held_tokens=80) as worker:
            worker.wait_until_ready()
            for number, done in ((signal.SIGTERM, 10), (signal.SIGKILL, 40)):
                wait_until(lambda done=done: len(results(store)) > done)
                server.stop(number)
                wait_until(lambda: worker.get("/readyz")[0] == 503)
                server.start()
            wait_until(lambda: nothing_is_left(store), 20)

            worker.signal(signal.SIGTERM)
            code = worker.wait()
        answers, replies = statuses(store), store.xlen(KEYS.reply("all"))
    server.stop()

    assert answers == ["done"] * 100
    assert replies == 100
    assert code == 0


def run_start(settings: Settings, **overrides: object) -> subprocess.CompletedProcess[str]:
    values = {"redis_url": settings.redis_url.get_secret_value(), "namespace": settings.namespace, **overrides}
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    environment |= {f"GPNER_{name.upper()}": str(value) for name, value in values.items()}
    return subprocess.run(
        [sys.executable, "-m", "worker.cli", "start"], env=environment, capture_output=True, text=True, timeout=20
    )


def test_what_keeps_a_worker_from_starting_is_said_in_one_line(
    settings: Settings, store: Redis, tmp_path: Path
) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    engine = {"engine": "tests.engines:load_capitals"}
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        mistakes = {
            "GPNER_MODEL must name the folder of a trained model, it is not set": {},
            f"{tmp_path} does not": {"model": tmp_path},
            f"{tmp_path}/bert its model_type is: bert": {"model": tmp_path / "bert"},
            "cannot reach Redis at redis://:***@127.0.0.1:1/0: start it": {
                **engine,
                "redis_url": "redis://:secret@127.0.0.1:1/0",
            },
            f"port {port} is taken": {**engine, "metrics_port": port},
            "did you mean GPNER_MAX_BATCH_TOKENS?": {"max_batch_token": 1},
        }
        ended = {expected: run_start(settings, **overrides) for expected, overrides in mistakes.items()}

    for expected, process in ended.items():
        assert expected in process.stderr
        assert process.returncode == 2
        assert process.stderr.count("\n") == 1
        assert process.stdout == ""
