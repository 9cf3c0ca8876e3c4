import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from redis import Redis

from gpner.entities import Entity, Extraction
from gpner.errors import DocumentError, DocumentFailed, ResultTimeout, ServiceError
from tests.workers import wait_until
from worker.client import Client
from worker.connection import connect
from worker.dead import DeadLetters
from worker.local_redis import LocalRedis
from worker.outcomes import answered, buried
from worker.presence import Report
from worker.protocol import Document
from worker.queue import DocumentQueue, Entry, Outcome
from worker.results import Failure, Result
from worker.settings import RedisUrl, Settings

LEASE_SECONDS = 0.5


@pytest.fixture
def client(settings: Settings, redis: Redis) -> Iterator[Client]:
    with Client(settings.model_copy(update={"lease_seconds": LEASE_SECONDS})) as client:
        yield client


@pytest.fixture
def queue(client: Client) -> Iterator[DocumentQueue]:
    queue = DocumentQueue(client.settings, consumer="ada")
    queue.ensure()
    yield queue
    queue.close()


@pytest.fixture
def worker(queue: DocumentQueue) -> Iterator[DocumentQueue]:
    """Answers every document, last read first; a text `fail` fails."""
    stopping = threading.Event()

    def work() -> None:
        while not stopping.is_set():
            queue.commit([outcome_of(queue, entry) for entry in reversed(queue.read(64, 0.05))])

    thread = threading.Thread(target=work)
    thread.start()
    yield queue
    stopping.set()
    thread.join()


def outcome_of(queue: DocumentQueue, entry: Entry) -> Outcome:
    document = Document.from_fields(entry.fields, queue.keys, 10_000)
    if document.text == "fail":
        return buried(entry, queue.keys, "EngineError", "it was told to")
    extraction = Extraction((Entity(0, len(document.text), "ALL", document.text, 1.0),), 1, 1)
    now = time.time()
    return answered(entry, document, extraction, queue.keys, model="m", revision="", read_seconds=now, done_seconds=now)


def test_a_worker_that_finds_nothing_to_do_still_counts_as_alive(client, queue):
    deadline = time.monotonic() + 2 * LEASE_SECONDS
    while time.monotonic() < deadline:
        queue.read(1, 0.05)
        queue.reclaim(1)

    with pytest.raises(ResultTimeout, match=r"\(1 at work\)"):
        client.result("of-nobody", timeout_seconds=0)


def test_a_timeout_says_when_a_worker_has_handed_the_document_back(client, queue):
    document_id = client.submit("text")
    queue.release(queue.read(1, 0))

    with pytest.raises(ResultTimeout, match="its worker handed it back and it waits for another"):
        client.result(document_id, timeout_seconds=0)


def test_one_text_is_not_taken_for_its_characters(client):
    for method in (client.submit_many, client.extract_many):
        with pytest.raises(DocumentError, match="documents must be several, was one string"):
            method("hello")


def test_an_unknown_priority_is_refused(client):
    with pytest.raises(DocumentError, match="priority must be high, normal or bulk, was: 'urgent'"):
        client.submit("hello", priority="urgent")


def test_what_is_submitted_is_what_a_worker_reads(client: Client, queue: DocumentQueue) -> None:
    reply_to = client.keys.reply("me")

    document_id = client.submit("Ada", meta={"page": 7}, labels=["PER"], reply_to=reply_to, priority="high")

    entry = queue.read(64, 0)[0]
    document = Document.from_fields(entry.fields, client.keys, 100)
    assert entry.stream == client.keys.high
    assert document == Document(id=document_id, text="Ada", meta='{"page": 7}', labels=("PER",), reply_to=reply_to)


def test_a_result_comes_back_with_what_the_document_brought(client: Client, worker: DocumentQueue) -> None:
    client.submit("Ada", id="42", meta={"page": 7})

    result = client.result("42", timeout_seconds=10)

    assert result.entities == (Entity(0, 3, "ALL", "Ada", 1.0),)
    assert (result.id, result.meta) == ("42", {"page": 7})


def test_a_document_added_by_hand_gets_its_result(client: Client, worker: DocumentQueue) -> None:
    client.redis.execute_command("XADD", "test:documents", "*", "id", "42", "text", "Ada met Babbage.")

    assert client.result("42", timeout_seconds=10).entities[0].text == "Ada met Babbage."


def test_extract_waits_for_the_entities_and_leaves_no_reply_stream(client: Client, worker: DocumentQueue) -> None:
    result = client.extract("Ada", timeout_seconds=10)

    assert result.entities[0].text == "Ada"
    assert client.redis.keys(client.keys.reply("*")) == []


def test_results_of_many_come_in_the_order_of_the_texts_and_a_failure_costs_the_others_nothing(
    client: Client, worker: DocumentQueue
) -> None:
    texts = [f"text {i}" for i in range(500)] + ["fail", "last"]

    answers = list(client.extract_many(texts, timeout_seconds=10))

    assert [a.entities[0].text if isinstance(a, Result) else a.error.type for a in answers] == [
        *texts[:500],
        "EngineError",
        "last",
    ]
    assert isinstance(answers[500], Failure)
    assert client.redis.keys(client.keys.reply("*")) == []


def test_a_failed_document_is_an_error_with_its_reason(client: Client, worker: DocumentQueue) -> None:
    with pytest.raises(DocumentFailed, match="failed with EngineError: it was told to") as caught:
        client.extract("fail", timeout_seconds=10)

    assert caught.value.error_type == "EngineError"
    with pytest.raises(DocumentFailed):
        client.result(caught.value.document_id, timeout_seconds=0)


def test_a_timeout_says_that_the_document_is_queued_and_no_worker_is_there(client: Client) -> None:
    client.submit("Ada", id="7f3a")

    with pytest.raises(ResultTimeout) as caught:
        client.result("7f3a", timeout_seconds=0.1)

    assert str(caught.value) == (
        "no result for document 7f3a after 0.1 s: it is still queued; "
        "no worker has been seen for 0.5 s: start one with `gpner-worker start`"
    )


def test_a_timeout_says_that_workers_are_busy_with_other_documents(client: Client, queue: DocumentQueue) -> None:
    client.submit_many(["first", Document.new("second", id="2")])
    queue.read(1, 0)

    with pytest.raises(ResultTimeout, match="still queued; raise timeout_seconds, or start more workers"):
        client.result("2", timeout_seconds=0)


def test_a_timeout_says_that_the_workers_do_not_read_just_now(client: Client, queue: DocumentQueue) -> None:
    paused = Report(state="paused", device="cpu", batch_tokens=1, tokens_held=0, documents_ended=0)
    queue.announce(paused.model_dump_json())
    client.submit("Ada", id="1")

    with pytest.raises(ResultTimeout, match=r"still queued; none of 1 workers reads just now \(paused\); see"):
        client.result("1", timeout_seconds=0)


def test_a_timeout_says_who_is_processing_the_document(client: Client, queue: DocumentQueue) -> None:
    client.submit("Ada", id="1")
    queue.read(1, 0)

    with pytest.raises(ResultTimeout, match=r"is being processed by ada \(delivery 1\); raise timeout_seconds"):
        client.result("1", timeout_seconds=0)


def test_a_timeout_says_that_the_worker_of_the_document_died(client: Client, queue: DocumentQueue) -> None:
    client.submit("Ada", id="1")
    queue.read(1, 0)
    time.sleep(1.2 * LEASE_SECONDS)

    with pytest.raises(ResultTimeout, match=r"its worker has been silent for \d+ s and nobody took it over; no worker"):
        client.result("1", timeout_seconds=0)


def test_a_timeout_says_that_the_result_is_gone(client: Client, worker: DocumentQueue) -> None:
    client.submit("Ada", id="1")
    client.result("1", timeout_seconds=10)
    client.redis.delete(client.keys.result("1"))

    with pytest.raises(ResultTimeout, match="its result is gone"):
        client.result("1", timeout_seconds=0)


def test_a_timeout_says_where_the_result_of_a_document_that_was_put_back_is_to_come_from(
    client: Client, worker: DocumentQueue
) -> None:
    client.submit("fail", id="1")
    with pytest.raises(DocumentFailed):
        client.result("1", timeout_seconds=10)
    client.redis.delete(client.keys.result("1"))
    with DeadLetters(client.settings) as dead:
        (letter_id,) = dead.find(["1"])["1"]

        with pytest.raises(
            ResultTimeout, match="if it failed and `gpner-worker dead retry` put it back, its result is"
        ):
            client.result("1", timeout_seconds=0)
        dead.retry(letter_id)

    with pytest.raises(DocumentFailed):
        client.result("1", timeout_seconds=10)


def test_a_timeout_of_a_foreign_document_says_what_is_known(client: Client) -> None:
    client.submit("Ada")

    with pytest.raises(ResultTimeout, match="did not submit it, 1 documents are queued or being processed"):
        client.result("somebody else's", timeout_seconds=0)


def test_an_extract_that_times_out_names_the_document_which_is_still_processed(
    client: Client, queue: DocumentQueue
) -> None:
    with pytest.raises(ResultTimeout) as caught:
        client.extract("Ada", timeout_seconds=0.1)

    entry = queue.read(1, 0)[0]
    assert f"no result for document {entry.fields[b'id'].decode()} after 0.1 s" in str(caught.value)
    assert queue.commit([outcome_of(queue, entry)]) == [True]


def test_a_mistake_anywhere_keeps_all_documents_out(client: Client) -> None:
    texts = ["good"] * 300 + ["bad \ud800"]

    with pytest.raises(DocumentError, match="half a surrogate pair"):
        client.submit_many(texts)

    assert client.redis.exists(client.keys.normal) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": "x" * 101}, "at most 100 characters, had 101"),
        ({"text": "x", "reply_to": "sessions"}, "reply_to must begin with test:reply:"),
        ({"text": "x", "id": "a\nb"}, "id must have"),
    ],
)
def test_a_document_that_workers_would_bury_is_not_sent(
    client: Client, arguments: dict[str, str], message: str
) -> None:
    client.settings = client.settings.model_copy(update={"max_document_characters": 100})

    with pytest.raises(DocumentError, match=message):
        client.submit(**arguments)

    assert client.redis.exists(client.keys.normal) == 0


def test_long_documents_go_in_several_steps_and_all_arrive(client: Client, queue: DocumentQueue) -> None:
    texts = ["x" * 700_000, "y" * 700_000, "z", "w" * 2_000_000]

    ids = client.submit_many(texts)

    entries = queue.read(10, 0)
    assert [entry.fields[b"id"].decode() for entry in entries] == ids
    assert [entry.fields[b"text"].decode() for entry in entries] == texts


def test_nothing_to_submit_is_no_error(client: Client) -> None:
    assert client.submit_many([]) == []
    assert list(client.extract_many([])) == []


def test_an_address_is_enough(redis: Redis, redis_server: LocalRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPNER_NAMESPACE", "test:")

    with Client(redis_server.url) as client:
        client.submit("Ada")

    assert redis.xlen("test:documents") == 1


def test_a_document_that_a_replica_must_have_is_accepted_when_it_has_it(settings: Settings) -> None:
    with LocalRedis() as master, LocalRedis() as replica, connect(RedisUrl(replica.url)) as copy:
        of_master = settings.model_copy(update={"redis_url": RedisUrl(master.url)})
        copy.replicaof("127.0.0.1", master.port)
        with Client(of_master, replicas=1) as client:
            client.redis.config_set("repl-diskless-sync-delay", 0)
            wait_until(lambda: copy.info("replication")["master_link_status"] == "up", 30, "a replica in step")
            pid = copy.info("server")["process_id"]

            os.kill(pid, signal.SIGSTOP)
            with pytest.raises(ServiceError, match=r"at least 1 replicas of Redis .* within 2 s, 0 had: it is queued"):
                client.submit("Ada", id="1")
            with pytest.raises(ResultTimeout, match="it is still queued"):
                client.result("1", timeout_seconds=0)
            os.kill(pid, signal.SIGCONT)
            client.submit_many([Document.new("Ada", id="1"), Document.new("Bob", id="2")])

            assert [fields[b"id"] for _, fields in copy.xrange(client.keys.normal)] == [b"1", b"1", b"2"]


def test_a_redis_that_is_away_is_one_clear_sentence(settings: Settings) -> None:
    with LocalRedis() as server:
        url = server.url
    with (
        Client(Settings(redis_url=url)) as client,
        pytest.raises(ServiceError, match=f"cannot reach Redis at {url}: start it or set GPNER_REDIS_URL"),
    ):
        client.extract("Ada")


def test_a_result_of_a_later_version_says_to_upgrade(client: Client) -> None:
    client.redis.set(client.keys.result("1"), '{"v":2,"id":"1","status":"done"}', ex=60)

    with pytest.raises(ServiceError, match=r"protocol version 1, was not .*; upgrade gpner") as caught:
        client.result("1")

    assert "\n" not in str(caught.value)


def test_the_client_loads_neither_torch_nor_transformers_nor_celery() -> None:
    heavy = {"torch", "transformers", "celery", "kombu", "prometheus_client"}
    script = f"import sys, worker.client; print({heavy} & set(sys.modules))"

    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert loaded.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "option", ["protocol=3", "decode_responses=true", "socket_timeout=1", "retry_on_timeout=true", "max_conections=1"]
)
def test_an_option_of_the_address_that_would_change_how_gpner_speaks_is_refused(option: str) -> None:
    with pytest.raises(ServiceError, match="leave out options other than db and ssl_"):
        Client(f"redis://127.0.0.1:6379/0?{option}")


def test_the_database_may_be_an_option_of_the_address() -> None:
    with Client("redis://127.0.0.1:6379?db=3") as client:
        assert client.redis.connection_pool.connection_kwargs["db"] == 3
