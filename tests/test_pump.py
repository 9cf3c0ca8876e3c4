"""The pump in this process, on a real Redis: what goes in comes out, good or bad."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from redis import Redis

from gpner.errors import OutOfMemoryError, ServiceError
from tests.consumers import take_over
from tests.engines import CapitalsEngine, extract, load_capitals, load_late, load_named, load_slow, load_small_memory
from tests.workers import wait_until
from worker.client import Client
from worker.protocol import Keys
from worker.pump import Pump
from worker.queue import DocumentQueue
from worker.settings import Settings

KEYS = Keys("test:")
SMALL = {"max_batch_tokens": 5, "max_held_tokens": 4096}


@contextmanager
def running(
    settings: Settings, load: Callable[[Settings], CapitalsEngine] = load_capitals, **overrides: object
) -> Iterator[Pump]:
    pump = Pump(settings.model_copy(update={"metrics_port": 0, **overrides}), load, device="cpu")
    pump.start()
    try:
        yield pump
    finally:
        pump.stop()


def enqueue(redis: Redis, **fields: str | bytes) -> None:
    redis.xadd(KEYS.normal, fields)


def result(redis: Redis, document_id: str) -> Any:
    wait_until(lambda: redis.exists(KEYS.result(document_id)))
    return json.loads(redis.get(KEYS.result(document_id)))


def everything_is_finished(redis: Redis) -> bool:
    if any(redis.xlen(stream) for stream in KEYS.streams):
        return False
    return not any(redis.xpending(stream, KEYS.group)["pending"] for stream in KEYS.streams)


def test_a_document_enqueued_with_plain_xadd_comes_back(settings: Settings, redis: Redis) -> None:
    enqueue(redis, id="42", text="ADA met Babbage in LONDON 伦敦", meta='{"page": 7.10}')

    with running(settings):
        answer = result(redis, "42")

    assert answer["status"] == "done"
    assert [(e["start"], e["end"], e["label"], e["text"]) for e in answer["entities"]] == [
        (0, 3, "WORD", "ADA"),
        (19, 25, "LONG", "LONDON"),
    ]
    assert (answer["model"], answer["tokens"], answer["windows"]) == ("capitals", 6, 1)
    assert answer["meta"] == {"page": 7.10}
    assert 0 <= answer["seconds"]["queued"] <= answer["seconds"]["total"] < 10
    assert everything_is_finished(redis)


def test_hundreds_of_documents_come_back_each_with_its_own_entities(settings: Settings, redis: Redis) -> None:
    texts = [f"NUMBER {number} " + "word " * (number % 50) + "END" * (number % 3) for number in range(500)]

    with running(settings, max_batch_tokens=200, max_held_tokens=800), Client(settings) as client:
        answers = list(client.extract_many(texts))

    assert [answer.entities for answer in answers] == [extract(text).entities for text in texts]


def test_a_document_whose_delivery_was_cut_off_is_done_without_waiting_for_the_lease(
    settings: Settings, redis: Redis
) -> None:
    with running(settings, lease_seconds=3600) as pump:
        enqueue(redis, id="0", text="ADA")
        result(redis, "0")
        delivered = redis.pipeline()
        delivered.xadd(KEYS.normal, {"id": "1", "text": "ADA"})
        delivered.xreadgroup(KEYS.group, pump.consumer, {KEYS.normal: ">"})
        delivered.execute()
        redis.client_kill_filter(_type="normal", skipme=True)

        assert result(redis, "1")["status"] == "done"


def test_only_the_labels_that_a_document_asks_for_come_back(settings: Settings, redis: Redis) -> None:
    enqueue(redis, id="1", text="ADA in LONDON", labels="LONG")

    with running(settings):
        answer = result(redis, "1")

    assert [entity["text"] for entity in answer["entities"]] == ["LONDON"]


def test_an_unknown_label_fails_the_document_and_names_the_known_ones(settings: Settings, redis: Redis) -> None:
    enqueue(redis, id="1", text="ADA in LONDON", labels="LONG,PERSON")

    with running(settings):
        answer = result(redis, "1")

    assert answer["status"] == "failed"
    assert answer["error"] == {"type": "DocumentError", "message": "labels must be among WORD, LONG, was: 'PERSON'"}
    assert redis.xlen(KEYS.dead) == 1


def test_malformed_entries_are_buried_and_answered_and_the_others_are_done(settings: Settings, redis: Redis) -> None:
    enqueue(redis, id="no-text")
    enqueue(redis, text="no id")
    enqueue(redis, id="not-utf8", text=b"\xff\xfe", reply_to=KEYS.reply("me"))
    enqueue(redis, id="version", text="x", v="9")
    enqueue(redis, id="long", text="x" * 1001)
    enqueue(redis, id="good", text="ADA")

    with running(settings, max_document_characters=1000):
        answers = {name: result(redis, name) for name in ("no-text", "not-utf8", "version", "long", "good")}
        wait_until(lambda: everything_is_finished(redis))

    assert {name for name, answer in answers.items() if answer["status"] == "done"} == {"good"}
    assert redis.xlen(KEYS.dead) == 5
    assert redis.xlen(KEYS.reply("me")) == 1


def test_poison_among_good_documents_is_isolated(settings: Settings, redis: Redis) -> None:
    texts = [f"NUMBER {number}" + " !raise" * (number in (3, 47)) for number in range(64)]

    with Client(settings) as client:
        answers = client.extract_many(texts)
        with running(settings):
            statuses = [answer.status for answer in answers]

    assert [number for number, status in enumerate(statuses) if status == "failed"] == [3, 47]


def test_a_text_that_cannot_be_tokenized_is_buried_alone(settings: Settings, redis: Redis) -> None:
    texts = ["one", "two !untokenizable", "three"]

    with Client(settings) as client:
        answers = client.extract_many(texts)
        with running(settings):
            statuses = [answer.status for answer in answers]

    assert statuses == ["done", "failed", "done"]


def test_memory_for_20_tokens_is_enough_for_all_documents_that_fit_alone(settings: Settings, redis: Redis) -> None:
    texts = ["word " * (number % 25) for number in range(60)]

    with Client(settings) as client:
        answers = client.extract_many(texts)
        with running(settings, load_small_memory, max_batch_tokens=40, max_held_tokens=400):
            statuses = [answer.status for answer in answers]

    assert statuses == ["done" if len(text.split()) <= 20 else "failed" for text in texts]


def test_a_document_handed_out_too_often_is_buried_without_being_run(settings: Settings, redis: Redis) -> None:
    enqueue(redis, id="1", text="ADA")
    for number in range(3):
        dying = DocumentQueue(settings.model_copy(update={"lease_seconds": 0.001}), consumer=f"dying-{number}")
        dying.ensure()
        wait_until(lambda queue=dying: queue.read(1, 0) or take_over(queue))
        dying.close()

    with running(settings, max_deliveries=3, lease_seconds=0.1):
        answer = result(redis, "1")

    assert answer["status"] == "failed"
    assert answer["error"]["type"] == "TooManyDeliveries"


def test_draining_finishes_what_is_held_and_leaves_nothing_pending(settings: Settings, redis: Redis) -> None:
    with Client(settings) as client, running(settings, load_slow, max_batch_tokens=5, max_held_tokens=20) as pump:
        client.submit_many(["one two three"] * 20)
        wait_until(lambda: pump.info()["documents_held"])
        pump.stop()

    done = len(list(redis.scan_iter(KEYS.result("*"))))
    assert done > 0
    assert done + redis.xlen(KEYS.normal) == 20
    assert redis.xpending(KEYS.normal, KEYS.group)["pending"] == 0
    assert redis.xinfo_consumers(KEYS.normal, KEYS.group) == []


def test_what_cannot_be_finished_in_time_is_handed_back_and_done_by_another(settings: Settings, redis: Redis) -> None:
    with Client(settings) as client:
        client.submit_many(["word " * 200] * 3)
    with running(settings, load_slow, drain_seconds=0.1) as pump:
        wait_until(lambda: pump.info()["documents_held"] == 3)

    pending = redis.xpending_range(KEYS.normal, KEYS.group, "-", "+", 10)
    assert [entry["times_delivered"] for entry in pending] == [0, 0, 0]
    with running(settings):
        wait_until(lambda: everything_is_finished(redis))

    assert len(list(redis.scan_iter(KEYS.result("*")))) == 3


def test_what_a_worker_holds_is_bounded_under_a_backlog(settings: Settings, redis: Redis) -> None:
    held: list[int] = []
    with Client(settings) as client:
        client.submit_many(["word " * 40] * 400)

    with running(settings, max_batch_tokens=500, max_held_tokens=2000) as pump:
        while not everything_is_finished(redis):
            held.append(pump.info()["tokens_held"])

    assert 0 < max(held) < 2 * 2000


def test_a_document_larger_than_all_that_may_be_held_is_done(settings: Settings, redis: Redis) -> None:
    with running(settings, max_batch_tokens=50, max_held_tokens=100), Client(settings) as client:
        answer = client.extract("word " * 5000)

    assert answer.tokens == 5000


def test_a_second_pump_on_the_same_port_is_told_what_to_do(settings: Settings, redis: Redis) -> None:
    with running(settings) as pump:
        taken = settings.model_copy(update={"metrics_port": pump.health.port})

        with pytest.raises(ServiceError, match=f"port {pump.health.port} is taken: .*set GPNER_METRICS_PORT"):
            Pump(taken, load_capitals, device="cpu")


def test_stopping_while_the_model_loads_takes_no_document(settings: Settings, redis: Redis) -> None:
    loading, go_on = threading.Event(), threading.Event()

    def load(settings: Settings) -> CapitalsEngine:
        loading.set()
        go_on.wait(5)
        return load_capitals(settings)

    enqueue(redis, id="1", text="ADA")
    with running(settings, load):
        loading.wait(5)
    go_on.set()

    assert redis.xlen(KEYS.normal) == 1


def models_of(redis: Redis, ids: list[str]) -> list[tuple[str, str]]:
    answers = [result(redis, document_id) for document_id in ids]
    return [(answer["model"], answer["revision"]) for answer in answers]


def reloaded(pump: Pump) -> Any:
    """How a reload ended, once it has."""
    wait_until(lambda: pump.info()["last_reload"] and pump.state != "reloading")
    return pump.info()["last_reload"]


def test_a_paused_pump_finishes_what_it_holds_and_reads_no_more(settings: Settings, redis: Redis) -> None:
    with Client(settings) as client, running(settings, load_slow, max_batch_tokens=5, max_held_tokens=20) as pump:
        client.submit_many(["one two three"] * 20)
        wait_until(lambda: pump.info()["documents_held"])

        pump.pause()

        wait_until(lambda: not pump.info()["documents_held"])
        paused = (pump.state, pump.not_ready(), redis.xpending(KEYS.normal, KEYS.group)["pending"])
        left = redis.xlen(KEYS.normal)
        pump.resume()
        wait_until(lambda: everything_is_finished(redis))

    assert paused == ("paused", "paused", 0)
    assert 0 < left < 20


def test_an_operators_drain_takes_all_the_time_that_it_needs(settings: Settings, redis: Redis) -> None:
    done = threading.Event()
    with Client(settings) as client, running(settings, load_slow, **SMALL, drain_seconds=0) as pump:
        client.submit_many(["one two three"] * 20)
        wait_until(lambda: pump.info()["documents_held"] == 20)

        pump.drain(done.set)

        assert pump.not_ready() == "draining"
        assert done.wait(10)
        assert everything_is_finished(redis)


def test_a_reload_loses_nothing_and_results_name_the_model_that_read_them(settings: Settings, redis: Redis) -> None:
    with Client(settings) as client, running(settings, load_named, model="old", max_held_tokens=4096) as pump:
        before = client.submit_many(["one two three"] * 50)
        wait_until(lambda: pump.info()["documents_held"])

        pump.reload("new")

        while_reloading = pump.not_ready()
        after = client.submit_many(["one two three"] * 50)
        outcome = reloaded(pump)
        models = models_of(redis, before + after)
        shown = pump.info()

    assert while_reloading == "reloading"
    assert (outcome["path"], outcome["outcome"], outcome["problem"]) == ("new", "done", None)
    assert set(models) == {("old", "revision of old"), ("new", "revision of new")}
    assert models == sorted(models, reverse=True)
    assert (shown["model"], shown["revision"], shown["state"]) == ("new", "revision of new", "reading")


def test_a_model_that_does_not_load_leaves_the_old_one_serving(settings: Settings, redis: Redis) -> None:
    with Client(settings) as client, running(settings, load_named, model="old") as pump:
        wait_until(lambda: pump.state == "reading")

        pump.reload("broken")

        outcome = reloaded(pump)
        answer = client.extract("ADA")

    assert (outcome["outcome"], outcome["problem"]) == ("failed", "a model must not be broken, this one is")
    assert answer.model == "old"


def test_a_reload_neither_ends_a_pause_nor_forgets_the_setting(settings: Settings, redis: Redis) -> None:
    with running(settings, load_named, model="set") as pump:
        wait_until(lambda: pump.state == "reading")
        pump.reload("other")
        reloaded(pump)
        pump.pause()

        pump.reload()

        wait_until(lambda: pump.info()["model"] == "set")
        wait_until(lambda: pump.state == "paused")


class NamedAfterItsSize(CapitalsEngine):
    """Its model's name is how many tokens a batch should hold; the device has room for 2,000."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.max_batch_tokens = int(settings.model)

    def warm_up(self) -> None:
        if self.max_batch_tokens > 2000:
            raise OutOfMemoryError(f"2000 tokens fit, was: {self.max_batch_tokens}")


def test_batches_are_as_large_as_suits_the_model_unless_the_operator_says_how_large(
    settings: Settings, redis: Redis
) -> None:
    def batch_tokens(**overrides: int) -> list[int]:
        sizes = []
        with running(settings, NamedAfterItsSize, model="700", **overrides) as pump:
            wait_until(lambda: pump.state == "reading")
            sizes.append(pump.info()["batch_tokens"])
            pump.reload("300")
            reloaded(pump)
            sizes.append(pump.info()["batch_tokens"])
        return sizes

    assert batch_tokens(max_batch_tokens=0) == [700, 300]
    assert batch_tokens(max_batch_tokens=0, max_held_tokens=500) == [500, 300]
    assert batch_tokens(max_batch_tokens=40) == [40, 40]


def test_a_worker_holds_about_four_batches_of_its_model(settings: Settings, redis: Redis) -> None:
    def load(settings: Settings) -> CapitalsEngine:
        engine = CapitalsEngine(settings, seconds_per_token=0.005)
        engine.max_batch_tokens = 10
        return engine

    held = []
    with Client(settings) as client, running(settings, load, max_batch_tokens=0) as pump:
        client.submit_many(["one two three"] * 60)
        while not everything_is_finished(redis):
            held.append(pump.info()["documents_held"])
            time.sleep(0.01)

    assert 0 < max(held) < 20


def test_a_batch_that_no_longer_fits_is_halved_and_one_that_was_asked_for_is_refused(
    settings: Settings, redis: Redis
) -> None:
    with running(settings, NamedAfterItsSize, model="700", max_batch_tokens=0) as pump:
        wait_until(lambda: pump.state == "reading")
        pump.reload("5000")
        outcomes = [reloaded(pump)["outcome"]]
        halved = pump.info()["batch_tokens"]
    with running(settings, NamedAfterItsSize, model="700", max_batch_tokens=700) as pump:
        wait_until(lambda: pump.state == "reading")
        pump.reload("5000")
        outcomes.append(reloaded(pump)["outcome"])

    assert halved == 1250
    assert outcomes == ["done", "failed"]


def test_one_reload_at_a_time_and_none_while_draining(settings: Settings, redis: Redis) -> None:
    with Client(settings) as client, running(settings, load_late) as pump:
        with pytest.raises(ServiceError, match="this one is loading"):
            pump.reload()
        wait_until(lambda: pump.state == "reading")
        client.submit("word")
        pump.reload()

        with pytest.raises(ServiceError, match="this one is reloading; wait until that is over"):
            pump.reload()

        reloaded(pump)
        pump.drain(lambda: None)
        with pytest.raises(ServiceError, match="this one is draining"):
            pump.reload()


def test_stopping_in_the_middle_of_a_reload_hands_back_what_is_held(settings: Settings, redis: Redis) -> None:
    with Client(settings) as client:
        client.submit_many(["word " * 200] * 3)
    with running(settings, load_slow, drain_seconds=0.1) as pump:
        wait_until(lambda: pump.info()["documents_held"] == 3)
        pump.reload()

    with running(settings):
        wait_until(lambda: everything_is_finished(redis))

    assert len(list(redis.scan_iter(KEYS.result("*")))) == 3
