import threading
import time

import pytest
from redis import Redis

from gpner.errors import ServiceError
from tests.consumers import Join, add, done, pending, take_over, wait_out_the_lease
from worker.local_redis import LocalRedis
from worker.outcomes import buried
from worker.queue import DocumentQueue
from worker.results import Answer, DeadLetter
from worker.settings import Settings


def test_a_committed_document_leaves_its_result_and_nothing_else(queue: DocumentQueue, redis: Redis) -> None:
    add(queue, id="42", reply_to=queue.keys.reply("me"))
    entries = queue.read(64, 0)

    assert queue.commit([done(queue, entries[0])]) == [True]

    result = Answer.validate_json(redis.get(queue.keys.result("42")) or b"")
    assert (result.id, result.status) == ("42", "done")
    assert [fields for _, fields in redis.xrange(queue.keys.reply("me"))] == [{b"result": redis.get("test:result:42")}]
    assert 0 < redis.ttl(queue.keys.result("42")) <= 86_400
    assert 0 < redis.ttl(queue.keys.reply("me")) <= 86_400
    assert (sum(queue.depth().values()), pending(queue)) == (0, {})


def test_documents_from_before_the_first_worker_are_read(redis: Redis, join: Join) -> None:
    redis.xadd("test:documents", {"id": "1", "text": "early"})

    assert [entry.fields[b"text"] for entry in join("ada").read(64, 0)] == [b"early"]


def test_an_entry_is_read_by_one_consumer_only(queue: DocumentQueue, join: Join) -> None:
    add(queue, 10)

    first, second = queue.read(6, 0), join("bob").read(6, 0)

    assert (len(first), len(second)) == (6, 4)
    assert not {entry.entry_id for entry in first} & {entry.entry_id for entry in second}


def test_an_empty_queue_answers_at_once_or_after_the_wait(queue: DocumentQueue) -> None:
    started = time.monotonic()
    assert queue.read(64, 0) == []
    assert time.monotonic() - started < 2

    started = time.monotonic()
    assert queue.read(64, 0.2) == []
    assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize("priority", ["high", "normal", "bulk"])
def test_a_waiting_reader_wakes_up_for_every_stream(queue: DocumentQueue, priority: str) -> None:
    stream = getattr(queue.keys, priority)
    arrival = threading.Timer(0.1, add, [queue, 1, stream])
    arrival.start()

    started = time.monotonic()
    entries = queue.read(64, 5)

    arrival.join()
    assert [entry.stream for entry in entries] == [stream]
    assert time.monotonic() - started < 2


def test_a_read_prefers_urgent_streams_and_never_exceeds_its_count(queue: DocumentQueue) -> None:
    for stream in queue.keys.streams:
        add(queue, 3, stream)

    entries = queue.read(7, 0)

    high, normal, bulk = queue.keys.streams
    assert [entry.stream for entry in entries] == [high] * 3 + [normal] * 3 + [bulk]


def test_only_the_first_commit_counts(queue: DocumentQueue, join: Join, redis: Redis) -> None:
    add(queue, reply_to=queue.keys.reply("me"))
    other = join("bob")
    entry = queue.read(1, 0)[0]
    wait_out_the_lease()
    taken = take_over(other)[0]

    assert other.commit([done(other, taken)]) == [True]
    assert queue.commit([done(queue, entry)]) == [False]

    assert Answer.validate_json(redis.get(queue.keys.result("0")) or b"").model == "bob"
    assert redis.xlen(queue.keys.reply("me")) == 1


def test_two_consumers_that_race_to_commit_publish_each_outcome_once(queue: DocumentQueue, join: Join) -> None:
    add(queue, 200, reply_to=queue.keys.reply("me"))
    other, entries = join("bob"), queue.read(200, 0)
    committed: dict[str, int] = {}

    def race(racer: DocumentQueue) -> None:
        committed[racer.consumer] = sum(racer.commit([done(racer, entry)])[0] for entry in entries)

    rival = threading.Thread(target=race, args=[other])
    rival.start()
    race(queue)
    rival.join()

    assert sum(committed.values()) == 200
    assert queue.redis.xlen(queue.keys.reply("me")) == 200


def test_a_reply_to_a_key_of_another_type_loses_only_the_reply(
    queue: DocumentQueue, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    redis.set(queue.keys.reply("mine"), "a string", ex=60)
    add(queue, 2, reply_to=queue.keys.reply("mine"))

    assert queue.commit([done(queue, entry) for entry in queue.read(2, 0)]) == [True, True]

    assert redis.exists(queue.keys.result("0"), queue.keys.result("1")) == 2
    assert redis.get(queue.keys.reply("mine")) == b"a string"
    assert "test:reply:mine" in caplog.text


def test_a_buried_entry_stands_among_the_dead_and_its_failure_is_published(queue: DocumentQueue, redis: Redis) -> None:
    add(queue, id="7", text="", surprise="!", reply_to=queue.keys.reply("me"))
    entry = queue.read(1, 0)[0]

    assert queue.commit([buried(entry, queue.keys, "DocumentError", "why")]) == [True]

    letter = DeadLetter.model_validate_json(redis.xrange(queue.keys.dead)[0][1][b"letter"])
    assert letter.entry.original_fields() == entry.fields
    assert Answer.validate_json(redis.get(queue.keys.result("7")) or b"").status == "failed"
    assert redis.xlen(queue.keys.reply("me")) == 1
    assert (queue.dead_letters(), sum(queue.depth().values())) == (1, 0)


def test_nothing_is_acknowledged_where_a_dead_letter_cannot_be_written(queue: DocumentQueue, redis: Redis) -> None:
    redis.set(queue.keys.dead, "not a stream", ex=60)
    add(queue, 2)
    good, bad = queue.read(2, 0)

    with pytest.raises(ServiceError, match="refused a command"):
        queue.commit([done(queue, good), buried(bad, queue.keys, "DocumentError", "why")])

    assert set(pending(queue)) == {good.entry_id, bad.entry_id}


def test_a_redis_without_memory_still_takes_results(queue: DocumentQueue, redis: Redis) -> None:
    add(queue, 3)
    redis.config_set("maxmemory", "1")
    try:
        entries = queue.read(3, 0)
        committed = queue.commit([done(queue, entry) for entry in entries])
    finally:
        redis.config_set("maxmemory", "0")

    assert committed == [True] * 3
    assert redis.exists(*(queue.keys.result(f"{i}") for i in range(3))) == 3


def test_a_redis_that_was_emptied_is_set_up_again(queue: DocumentQueue, redis: Redis) -> None:
    add(queue)
    entry = queue.read(1, 0)[0]
    redis.flushall()
    redis.script_flush()

    assert queue.read(1, 0) == []
    assert queue.renew([entry]) == [entry]
    assert queue.commit([done(queue, entry)]) == [False]
    add(queue)
    assert len(queue.read(1, 0.5)) == 1


def test_a_group_that_vanishes_while_a_reader_waits_is_made_again(queue: DocumentQueue, redis: Redis) -> None:
    flood = threading.Timer(0.1, redis.flushall)
    flood.start()

    assert queue.read(1, 1) == []
    flood.join()

    add(queue)
    assert len(queue.read(1, 1)) == 1


def test_the_age_is_that_of_the_oldest_document_of_all_streams(queue: DocumentQueue) -> None:
    assert queue.oldest_age_seconds() == 0
    now = time.time_ns() // 1_000_000
    queue.redis.xadd(queue.keys.bulk, {"id": "1", "text": ""}, id=f"{now - 5000}-0")
    add(queue)

    assert 4.5 < queue.oldest_age_seconds() < 8
    assert list(queue.depth().values()) == [0, 1, 1]
    assert abs(queue.read(1, 0)[0].enqueued_seconds - time.time()) < 3


def test_a_redis_that_is_away_is_one_clear_sentence_without_the_password(settings: Settings) -> None:
    with LocalRedis() as server:
        port = server.port
    away = Settings(redis_url=f"redis://:hunter2@127.0.0.1:{port}/0")
    queue = DocumentQueue(away, consumer="ada")

    for call in (queue.ensure, queue.ping, queue.dead_letters, lambda: queue.read(1, 0), lambda: queue.read(1, 1)):
        with pytest.raises(ServiceError) as caught:
            call()
        assert str(caught.value) == (
            f"cannot reach Redis at redis://:***@127.0.0.1:{port}/0: start it or set GPNER_REDIS_URL"
        )
    queue.close()


def test_a_wrong_password_is_not_taken_for_a_redis_that_is_away(queue: DocumentQueue, redis: Redis) -> None:
    redis.acl_setuser("someone", enabled=True, passwords=["+right"], keys=["*"], commands=["+@all"])
    address = queue.url.get_secret_value().replace("//", "//someone:wrong@")
    locked_out = DocumentQueue(Settings(redis_url=address), consumer="ada")

    with pytest.raises(ServiceError, match=r"refused the login; check user and password"):
        locked_out.ping()

    locked_out.close()
    redis.acl_deluser("someone")


def test_a_commit_repeated_because_its_answer_was_lost_is_still_this_workers_own(
    queue: DocumentQueue, join: Join
) -> None:
    add(queue, 1)
    (entry,) = queue.read(1, 0)
    outcome = done(queue, entry)

    assert queue.commit([outcome]) == [True]
    assert queue.commit([outcome]) == [True]
    assert join("bob").commit([done(join("bob"), entry)]) == [False]
    assert queue.redis.get(queue.keys.result("0")) == outcome.payload


def test_the_same_failure_committed_by_two_workers_is_one_workers_own(queue: DocumentQueue, join: Join) -> None:
    add(queue)
    other = join("bob")
    (entry,) = queue.read(1, 0)
    failure = buried(entry, queue.keys, "DocumentError", "it has no text")

    assert other.commit([failure]) == [True]
    assert queue.commit([failure]) == [False]


@pytest.mark.parametrize(("sizes", "expected"), [([100] * 40, 40), ([5000] * 10, 1), ([100] * 20 + [5000] * 20, 23)])
def test_a_read_ends_soon_after_its_limit_in_bytes(queue: DocumentQueue, sizes: list[int], expected: int) -> None:
    for size in sizes:
        add(queue, text="x" * size)

    assert len(queue.read(64, 0, max_bytes=5000)) == expected
    assert sum(queue.depth().values()) == len(sizes)


def test_a_waiting_reader_gets_one_document_a_stream_and_the_rest_when_it_asks_again(
    queue: DocumentQueue, redis: Redis
) -> None:
    burst = redis.pipeline(transaction=True)
    for number in range(10):
        burst.xadd(queue.keys.normal, {"id": str(number), "text": "x"})
    arrival = threading.Timer(0.2, burst.execute)
    arrival.start()

    first, rest = queue.read(64, 5), queue.read(64, 0)

    arrival.join()
    assert (len(first), len(rest)) == (1, 9)
