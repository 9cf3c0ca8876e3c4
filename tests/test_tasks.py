"""The Celery lane: calls of `gpner.extract` from other services, through drains, restarts of Redis and a full queue."""

import gc
import json
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from celery.concurrency.solo import TaskPool
from kombu import Message
from redis import Redis

from gpner.errors import DocumentError
from tests.callers import call, celery_app, ended
from tests.consumers import add, done
from tests.workers import ROOT, DurableRedis, WorkerProcess, wait_until
from worker.app import app
from worker.broker import Request, working
from worker.client import Client
from worker.connection import connect
from worker.local_redis import free_port
from worker.protocol import Document, Keys
from worker.queue import DocumentQueue
from worker.settings import RedisUrl, Settings
from worker.tasks import MAX_DOCUMENTS, Call, extract

KEYS = Keys("test:")
TEXTS = [f"NUMBER {number} three" for number in range(10)]


def done_documents(store: Redis) -> int:
    return len(list(store.scan_iter(KEYS.result("*"))))


@pytest.mark.integration
def test_answers_come_in_order_under_their_callers_names_and_failures_stand_in_their_place(
    settings: Settings, store: Redis, tmp_path: Path
) -> None:
    store.set(KEYS.result("mine"), b'{"v":1,"id":"mine","status":"failed","error":{"type":"Secret","message":"x"}}', 60)
    documents = [
        "ADA in LONDON",
        {"text": "PARIS", "id": "mine", "meta": {"page": 7}},
        {"text": "ADA in LONDON", "labels": ["LONG"]},
        "please !raise",
    ]
    with WorkerProcess(settings, "load_capitals", tmp_path / "log") as worker:
        worker.wait_until_ready()
        task = call(settings, documents, priority="high")
        result = ended(store, task)

    answers = result["result"]
    assert result["status"] == "SUCCESS"
    assert [[entity["text"] for entity in answer.get("entities", ())] for answer in answers] == [
        ["ADA", "LONDON"],
        ["PARIS"],
        ["LONDON"],
        [],
    ]
    assert [answer["status"] for answer in answers] == ["done", "done", "done", "failed"]
    assert (answers[1]["id"], answers[1]["meta"]) == ("mine", {"page": 7})
    assert all(answers[number]["id"].startswith(f"task:{task}:") for number in (0, 2, 3))
    assert answers[3]["error"]["type"] == "ValueError"
    assert json.loads(store.get(KEYS.result("mine")) or b"")["error"]["type"] == "Secret"
    assert "PARIS" not in worker.log.read_text()


@pytest.mark.integration
def test_a_call_that_breaks_a_rule_fails_at_once_and_says_which(
    settings: Settings, store: Redis, tmp_path: Path
) -> None:
    with WorkerProcess(settings, "load_capitals", tmp_path / "log") as worker:
        worker.wait_until_ready()
        too_many = ended(store, call(settings, ["text"] * (MAX_DOCUMENTS + 1)))
        malformed = ended(store, call(settings, ["good", {"text": "x", "lables": ["WORD"]}]))

    for result in (too_many, malformed):
        assert (result["status"], result["result"]["exc_type"]) == ("FAILURE", "DocumentError")
    assert too_many["result"]["exc_message"] == ["documents must be a list of at most 64, was: 65; make several calls"]
    assert malformed["result"]["exc_message"] == [
        "of the documents, counted from 0, number 1: it must be a text, or an object of text, id, meta, labels, "
        "was: 'text, lables'"
    ]
    assert done_documents(store) == 0


@pytest.mark.integration
def test_a_chain_through_three_services(settings: Settings, store: Redis, tmp_path: Path) -> None:
    variables = {"OTHER_REDIS_URL": settings.redis_url.get_secret_value(), "OTHER_PREFIX": settings.namespace}
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **variables}
    other = [sys.executable, "-m", "celery", "-A", "tests.other_service", "worker", "-P", "solo", "-Q", "other"]
    with (
        WorkerProcess(settings, "load_capitals", tmp_path / "log"),
        (tmp_path / "other").open("wb") as log,
        subprocess.Popen(other, env=environment, cwd=tmp_path, stdout=log, stderr=log) as service,
    ):
        chain = [sys.executable, "-m", "tests.other_service"]
        ran = subprocess.run(chain, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        service.terminate()
        service.wait(20)

    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == [["ADA", "LONDON"], [], ["PARIS", "ROME"]]


@pytest.mark.integration
def test_a_draining_worker_hands_its_calls_to_others_who_go_on_where_it_stopped(
    settings: Settings, store: Redis, tmp_path: Path
) -> None:
    options = {"max_batch_tokens": 5, "max_held_tokens": 40}
    with WorkerProcess(settings, "load_slow", tmp_path / "one", **options) as one:
        one.wait_until_ready()
        task = call(settings, TEXTS * 6)
        wait_until(lambda: done_documents(store) > 3)

        with celery_app(settings) as app:
            app.control.shutdown()

        assert one.wait() == 0
        done_before, left = done_documents(store), store.xlen(KEYS.normal)
        waiting = store.llen("test:tasks"), store.hlen("test:unacked")
    with WorkerProcess(settings, "load_capitals", tmp_path / "two") as two:
        result = ended(store, task)
        finished = two.metric("gpner_documents_total", outcome="done")

    assert waiting == (1, 0)
    assert 0 < left < 60
    assert finished == left == 60 - done_before
    assert [answer["entities"][0]["text"] for answer in result["result"]] == ["NUMBER"] * 60


@pytest.mark.integration
def test_a_cold_shutdown_hands_calls_back_and_is_no_error(settings: Settings, store: Redis, tmp_path: Path) -> None:
    options = {"max_batch_tokens": 5, "max_held_tokens": 40}
    with WorkerProcess(settings, "load_slow", tmp_path / "one", **options) as one:
        one.wait_until_ready()
        tasks = [call(settings, TEXTS * 6) for _ in range(3)]
        wait_until(lambda: done_documents(store) > 3)
        one.signal(signal.SIGQUIT)

        assert one.wait() == 0
        waiting = store.llen("test:tasks"), store.hlen("test:unacked"), store.xlen(KEYS.normal)
    with WorkerProcess(settings, "load_capitals", tmp_path / "two") as two:
        two.wait_until_ready()
        results = [ended(store, task) for task in tasks]

    assert waiting[:2] == (3, 0)
    assert waiting[2] > 100
    assert "Unrecoverable" not in one.log.read_text()
    assert {len(result["result"]) for result in results} == {60}


def test_a_call_that_waited_for_a_thread_until_its_time_was_over_is_handed_back(
    settings: Settings, queue: DocumentQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPNER_REDIS_URL", settings.redis_url.get_secret_value())
    monkeypatch.setenv("GPNER_NAMESPACE", settings.namespace)
    rejections = []
    message = Message(
        json.dumps([[["text"]], {}, {}]),
        headers={"task": "gpner.extract", "id": "1"},
        content_type="application/json",
        content_encoding="utf-8",
    )
    app.set_current()  # as in a worker, where it is the only one
    request = Request(
        message, app=app, task=extract, on_reject=lambda _logger, _errors, again: rejections.append(again)
    )
    monkeypatch.setitem(app.conf.broker_transport_options, "visibility_timeout", 0.1)
    time.sleep(0.1)
    working.set()
    try:
        request.execute_using_pool(TaskPool())
    finally:
        working.clear()

    assert rejections == [True]
    assert queue.depth()[KEYS.normal] == 0


@pytest.mark.integration
@pytest.mark.slow
def test_calls_in_flight_survive_redis_stopped_and_killed(
    settings: Settings, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server = DurableRedis(tmp_path, free_port())
    server.start()
    request.addfinalizer(server.kill)
    durable = settings.model_copy(update={"redis_url": RedisUrl(server.url)})
    options = {"max_batch_tokens": 5, "max_held_tokens": 40}
    with (
        connect(durable.redis_url) as store,
        WorkerProcess(durable, "load_slow", tmp_path / "log", **options) as worker,
    ):
        worker.wait_until_ready()
        tasks = [call(durable, TEXTS * 6) for _ in range(5)]
        for connected, number in enumerate((signal.SIGTERM, signal.SIGKILL), start=1):
            wait_until(lambda connected=connected: worker.log.read_text().count("Connected to") >= connected)
            wait_until(lambda connected=connected: done_documents(store) > 25 * connected)
            server.stop(number)
            wait_until(lambda: worker.get("/readyz")[0] == 503)
            server.start()
            wait_until(lambda: worker.get("/readyz")[0] == 200)
        results = [ended(store, task) for task in tasks]
        finished_documents = worker.metric("gpner_documents_total", outcome="done")

        worker.signal(signal.SIGTERM)
        code = worker.wait()

    assert code == 0
    for result in results:
        assert [answer["entities"][0]["text"] for answer in result["result"]] == ["NUMBER"] * 60
    assert finished_documents == 300
    assert "Traceback" not in worker.log.read_text()


@pytest.mark.integration
@pytest.mark.slow
def test_calls_of_a_killed_worker_are_answered_by_another_that_does_no_document_again(
    settings: Settings, store: Redis, tmp_path: Path
) -> None:
    options = {"max_batch_tokens": 5, "max_held_tokens": 40, "lease_seconds": 2}
    with WorkerProcess(settings, "load_slow", tmp_path / "one", **options) as one:
        one.wait_until_ready()
        tasks = [call(settings, TEXTS * 6) for _ in range(3)]
        wait_until(lambda: done_documents(store) > 25)
        one.signal(signal.SIGKILL)
        one.wait()
        done_before, in_flight = done_documents(store), store.zrange("test:unacked_index", 0, -1)
    # As if the visibility timeout had passed. A worker looks when it starts, and then every five seconds.
    store.zadd("test:unacked_index", dict.fromkeys(in_flight, 0))
    with WorkerProcess(settings, "load_capitals", tmp_path / "two", **options) as two:
        results = [ended(store, task) for task in tasks]
        finished = two.metric("gpner_documents_total", outcome="done")

    assert len(in_flight) == 3
    assert finished == 180 - done_before
    for result in results:
        assert [answer["entities"][0]["text"] for answer in result["result"]] == ["NUMBER"] * 60


@pytest.mark.integration
def test_a_call_larger_than_the_queue_goes_through_it_in_parts(
    settings: Settings, store: Redis, tmp_path: Path
) -> None:
    with WorkerProcess(settings, "load_capitals", tmp_path / "log", max_queued_documents=4) as worker:
        worker.wait_until_ready()
        result = ended(store, call(settings, TEXTS))
        finished = worker.metric("gpner_documents_total", outcome="done")

    assert [answer["status"] for answer in result["result"]] == ["done"] * 10
    assert finished == 10


def test_a_call_that_comes_again_enqueues_nothing_again_and_finds_what_is_done(
    settings: Settings, queue: DocumentQueue
) -> None:
    with Client(settings) as client:
        first = Call(client, "1", TEXTS, "normal").wait(0.1, lambda: False)
        again = Call(client, "1", TEXTS, "normal").wait(0.1, lambda: False)
        held = queue.read(100, 0)
        queue.commit([done(queue, entry) for entry in held])
        at_last = Call(client, "1", TEXTS, "normal").wait(5, lambda: False)

    assert first is again is None
    assert at_last is not None
    assert [answer["id"] for answer in at_last] == [entry.fields[b"id"].decode() for entry in held]
    assert len(held) == len(TEXTS)


def test_another_call_under_the_same_task_id_gets_no_answers_of_the_first(
    settings: Settings, queue: DocumentQueue
) -> None:
    with Client(settings) as client:
        Call(client, "1", ["first"], "normal").wait(0.1, lambda: False)
        queue.commit([done(queue, entry) for entry in queue.read(1, 0)])

        other = Call(client, "1", ["second"], "normal").wait(0.1, lambda: False)

    assert other is None
    assert [entry.fields[b"text"] for entry in queue.read(10, 0)] == [b"second"]


def test_a_call_that_is_to_end_waits_no_longer(settings: Settings, queue: DocumentQueue) -> None:
    with Client(settings) as client:
        assert Call(client, "1", ["text"], "normal").wait(3600, lambda: bool(queue.depth()[KEYS.normal])) is None


def test_a_call_waits_while_redis_is_away(settings: Settings) -> None:
    away = settings.model_copy(update={"redis_url": RedisUrl("redis://127.0.0.1:1/0")})
    with Client(away) as client:
        assert Call(client, "1", ["text"], "normal").wait(0.5, lambda: False) is None


def test_a_full_queue_is_waited_for(settings: Settings, queue: DocumentQueue, redis: Redis) -> None:
    add(queue, 3)
    with Client(settings.model_copy(update={"max_queued_documents": 3})) as client:
        assert Call(client, "1", ["text"], "normal").wait(0.5, lambda: False) is None

    assert redis.xlen(KEYS.normal) == 3


def test_a_call_cut_off_between_its_parts_enqueues_none_twice(settings: Settings, queue: DocumentQueue) -> None:
    documents = [{"text": "x" * 600_000}] * 3
    with Client(settings) as client:
        first = Call(client, "1", documents, "normal")
        first.wait(0.1, lambda: bool(queue.depth()[KEYS.normal]))
        calls = [Call(client, "1", documents, "normal") for _ in range(8)]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda call: call.wait(0.3, lambda: False), calls))

    assert queue.depth()[KEYS.normal] == 3


def test_a_call_whose_answer_from_redis_was_lost_enqueues_nothing_again(
    settings: Settings, queue: DocumentQueue
) -> None:
    with Client(settings.model_copy(update={"max_queued_documents": 3})) as client:
        documents = [Document.new(text) for text in TEXTS]
        note = KEYS.call("1")
        counts = [client.submit_call(documents, note=note, before=0, priority="normal") for _ in range(2)]
        queue.commit([done(queue, entry) for entry in queue.read(1, 0)])
        counts.append(client.submit_call(documents[2:], note=note, before=2, priority="normal"))

    assert counts == [3, 3, 2]
    assert [entry.fields[b"text"].decode() for entry in queue.read(10, 0)] == TEXTS[1:4]


def test_a_note_never_outlives_a_result_that_it_stands_for(
    settings: Settings, queue: DocumentQueue, redis: Redis
) -> None:
    with Client(settings.model_copy(update={"max_queued_documents": 2, "result_ttl_seconds": 60})) as client:
        Call(client, "1", TEXTS[:3], "normal").wait(0.1, lambda: False)
        (note,) = redis.scan_iter(KEYS.call("*"))
        queue.commit([done(queue, entry) for entry in queue.read(1, 0)])
        (result,) = redis.scan_iter(KEYS.result("*"))
        redis.expire(note, 20)
        redis.expire(result, 30)

        Call(client, "1", TEXTS[:3], "normal").wait(1.0, lambda: False)

        result_milliseconds = redis.pttl(result)
        # Asked for later, so that the time between the two questions cannot hide a fault, nor make one.
        assert 30_000 < redis.pttl(note) <= result_milliseconds
        assert queue.depth()[KEYS.normal] == 2


def test_a_call_that_waits_longer_than_results_live_finds_them_all(settings: Settings, queue: DocumentQueue) -> None:
    answers: list[object] = []
    with Client(settings.model_copy(update={"result_ttl_seconds": 2})) as client:
        waiting = threading.Thread(target=lambda: answers.append(wait_for(client)))
        waiting.start()
        held = queue.read(1, 5)
        queue.commit([done(queue, entry) for entry in held])
        time.sleep(3)
        again = Call(client, "1", TEXTS, "normal").wait(0.1, lambda: False)
        rest = queue.read(100, 0)
        queue.commit([done(queue, entry) for entry in rest])
        waiting.join()

    assert again is None
    assert len(held) + len(rest) == len(TEXTS)
    assert answers[0]


def wait_for(client: Client) -> object:
    return Call(client, "1", TEXTS, "normal").wait(20, lambda: False)


@pytest.mark.parametrize("task_id", ["x" * 300, "a\nb", "\x1b[2J", "a b", "", "\ud800", "日本", "../x:y"])
def test_a_task_id_of_any_kind_makes_valid_documents(settings: Settings, queue: DocumentQueue, task_id: str) -> None:
    with Client(settings) as client:
        Call(client, task_id, ["text"], "normal").wait(0.1, lambda: False)

    (entry,) = queue.read(10, 0)
    document = Document.from_fields(entry.fields, KEYS, 100)
    assert re.fullmatch(r"task:[0-9a-f]{32}:[0-9a-f]{12}:0", document.id)


def test_a_calls_texts_are_forgotten_once_they_are_accepted(settings: Settings, queue: DocumentQueue) -> None:
    def texts() -> list[str]:
        # One that other tests had refused may be about, half made.
        return [getattr(item, "text", "") for item in gc.get_objects() if type(item) is Document]

    with Client(settings) as client:
        call = Call(client, "1", ["a text of its own"], "normal")
        before = texts()
        call.wait(0.1, lambda: False)
        after = texts()

    assert "a text of its own" in before
    assert "a text of its own" not in after


def test_no_documents_have_no_answers(settings: Settings, queue: DocumentQueue) -> None:
    with Client(settings) as client:
        assert Call(client, "1", [], "normal").wait(5, lambda: False) == []


@pytest.mark.parametrize(
    ("documents", "priority", "expected"),
    [
        ("a text", "normal", "must be a list of at most 64, was: str"),
        ([3], "normal", "number 0: it must be a text, or an object of text, id, meta, labels, was: 'int'"),
        ([{"id": "1"}], "normal", "number 0: it must be a text, or an object"),
        (["good", {"text": 1}], "normal", "number 1: text must be a string"),
        ([{"text": "x", "id": "a\nb"}], "normal", "number 0: id must have 1 to 256 characters"),
        ([{"text": "x", "labels": []}], "normal", "number 0: labels must be names"),
        (["long enough"], "normal", "number 0: text must have at most 10 characters"),
        (["ten chars."] * 2, "normal", "of one call must have at most 10 characters together .*was: 20; make several"),
        ([{"text": "x", "meta": "so long a text"}], "normal", "of one call must have at most 10 characters together"),
        (["x"], "urgent", "priority must be high, normal or bulk, was: 'urgent'"),
        (["x"], ["high"], "priority must be high, normal or bulk"),
    ],
)
def test_what_is_wrong_with_a_call_is_named(
    settings: Settings, documents: object, priority: object, expected: str
) -> None:
    with (
        Client(settings.model_copy(update={"max_document_characters": 10})) as client,
        pytest.raises(DocumentError, match=expected),
    ):
        Call(client, "1", documents, priority)
