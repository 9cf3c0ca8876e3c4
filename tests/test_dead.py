"""Dead letters: nothing of a document changes in one, and nothing is lost on the way out of it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from gpner.errors import DocumentError, QueueFull, ServiceError
from tests.letters import KEYS, bury
from tests.workers import DurableRedis, WorkerProcess, wait_until
from worker.connection import connect
from worker.dead import MOST_FIELDS, PAGE_LETTERS, DeadLetters
from worker.local_redis import LocalRedis, free_port
from worker.queue import DocumentQueue
from worker.results import Answer
from worker.settings import RedisUrl, Settings

RETRY_ALL = [sys.executable, "-m", "worker.cli", "dead", "retry", "--all"]


@pytest.fixture
def dead(settings: Settings, redis: Redis) -> Iterator[DeadLetters]:
    with DeadLetters(settings) as dead:
        yield dead


@pytest.fixture
def durable_server(tmp_path: Path) -> Iterator[DurableRedis]:
    server = DurableRedis(tmp_path, free_port())
    server.start()
    yield server
    server.kill()


def bury_many(redis: Redis, count: int) -> None:
    for i in range(count):
        bury(redis, {b"id": b"%d" % i, b"text": b"text"})


def ids_in(redis: Redis, *streams: str) -> list[str]:
    """The documents that lie on these streams, in order."""
    return [fields[b"id"].decode() for stream in streams for _, fields in redis.xrange(stream)]


def ids_in_letters(dead: DeadLetters) -> list[str | None]:
    return [letter.document_id for letter in dead.newest()][::-1]


def at(settings: Settings, port: int) -> Settings:
    """The settings of a service on another Redis."""
    return settings.model_copy(update={"redis_url": RedisUrl(f"redis://127.0.0.1:{port}/0")})


def environment(settings: Settings) -> dict[str, str]:
    url = settings.redis_url.get_secret_value()
    return {**os.environ, "GPNER_REDIS_URL": url, "GPNER_NAMESPACE": settings.namespace}


def test_whatever_the_fields_hold_they_come_back_byte_for_byte(dead: DeadLetters, redis: Redis) -> None:
    @hypothesis.settings(deadline=None)
    @given(st.dictionaries(st.binary(max_size=20), st.binary(max_size=200) | st.text().map(str.encode), min_size=1))
    def check(fields: dict[bytes, bytes]) -> None:
        letter_id = bury(redis, fields)

        assert dead.retry(letter_id)

        ((entry_id, put_back),) = redis.xrange(KEYS.normal)
        assert list(put_back.items()) == list(fields.items())
        redis.xdel(KEYS.normal, entry_id)

    check()
    assert redis.xlen(KEYS.dead) == 0


def test_a_huge_document_comes_back_byte_for_byte(dead: DeadLetters, redis: Redis) -> None:
    fields = {b"id": b"huge", b"text": "伦敦".encode() * 4_000_000, b"meta": b"\xff" * 1_000_000}

    assert dead.retry(bury(redis, fields))

    ((_, put_back),) = redis.xrange(KEYS.normal)
    assert put_back == fields


@pytest.mark.parametrize("stream", KEYS.streams)
def test_a_document_goes_back_onto_its_own_stream_and_is_new_to_the_workers(
    dead: DeadLetters, redis: Redis, settings: Settings, stream: str
) -> None:
    letter_id = bury(redis, {b"id": b"42", b"text": b"Ada"}, stream)

    assert dead.retry(letter_id)

    queue = DocumentQueue(settings, consumer="ada")
    queue.ensure()
    (entry,) = queue.read(64, 0)
    queue.close()
    assert (entry.stream, entry.deliveries, entry.fields[b"id"]) == (stream, 1, b"42")
    assert dead.get(letter_id) is None


def test_a_letter_is_put_back_once(dead: DeadLetters, redis: Redis) -> None:
    letter_id = bury(redis, {b"id": b"42", b"text": b"Ada"})

    assert [dead.retry(letter_id), dead.retry(letter_id)] == [True, False]

    assert ids_in(redis, *KEYS.streams) == ["42"]


def test_a_full_queue_takes_no_letter_and_the_letter_stays(redis: Redis, settings: Settings) -> None:
    letter_id = bury(redis, {b"id": b"42", b"text": b"Ada"}, KEYS.bulk)
    waiting = redis.xadd(KEYS.high, {"id": "1", "text": "x"})

    with DeadLetters(settings.model_copy(update={"max_queued_documents": 1})) as dead:
        with pytest.raises(QueueFull, match="may hold 1 unfinished documents and holds 1: wait, start more workers"):
            dead.retry(letter_id)
        assert ids_in_letters(dead) == ["42"]
        redis.xdel(KEYS.high, waiting)
        assert dead.retry(letter_id)

    assert ids_in(redis, *KEYS.streams) == ["42"]


def test_a_redis_without_memory_takes_no_letter_and_the_letter_stays(dead: DeadLetters, redis: Redis) -> None:
    letter_id = bury(redis, {b"id": b"42", b"text": b"Ada"})
    redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(ServiceError, match=r"refused a command: .*maxmemory"):
            dead.retry(letter_id)
    finally:
        redis.config_set("maxmemory", 0)

    assert (ids_in(redis, *KEYS.streams), ids_in_letters(dead)) == ([], ["42"])
    assert dead.retry(letter_id)


@pytest.mark.parametrize(
    ("fields", "stream", "message"),
    [
        ({b"id": b"1"}, "other:documents", "its stream must be one of test:documents:high, .* was: 'other:documents'"),
        ({}, KEYS.normal, "its document must have 1 to 1000 fields, had 0"),
        (
            {b"%d" % i: b"" for i in range(MOST_FIELDS + 1)},
            KEYS.normal,
            "its document must have 1 to 1000 fields, had 1001",
        ),
    ],
)
def test_a_letter_that_cannot_go_back_says_why_and_stays(
    dead: DeadLetters, redis: Redis, fields: dict[bytes, bytes], stream: str, message: str
) -> None:
    letter_id = bury(redis, fields, stream)

    with pytest.raises(DocumentError, match=f"dead letter {letter_id} cannot be put back: {message}"):
        dead.retry(letter_id)

    assert redis.xlen(KEYS.dead) == 1
    assert redis.exists(*KEYS.streams) == 0


def test_as_many_fields_as_may_be_go_back(dead: DeadLetters, redis: Redis) -> None:
    fields = {b"%d" % i: b"x" for i in range(MOST_FIELDS)}

    assert dead.retry(bury(redis, fields))

    ((_, put_back),) = redis.xrange(KEYS.normal)
    assert put_back == fields


@pytest.mark.parametrize("entry", [{"letter": "{}"}, {"letter": b"\xff\x00"}, {"other": "field"}])
def test_what_is_no_letter_can_be_seen_and_dropped_but_not_put_back(
    dead: DeadLetters, redis: Redis, entry: dict[str, str | bytes]
) -> None:
    letter_id = redis.xadd(KEYS.dead, entry).decode()

    (letter,) = dead.newest()

    assert (letter.letter_id, letter.reason.type) == (letter_id, "UnreadableLetter")
    with pytest.raises(DocumentError, match="cannot be put back"):
        dead.retry(letter_id)
    assert dead.drop([letter_id]) == 1


def test_base64_that_is_none_is_no_letter(dead: DeadLetters, redis: Redis) -> None:
    letter_id = bury(redis, {b"id": b"\xff"})
    written = redis.xrange(KEYS.dead)[0][1][b"letter"].replace(b'"/w=="', b'"/w="')
    redis.xdel(KEYS.dead, letter_id)
    redis.xadd(KEYS.dead, {"letter": written})

    (letter,) = dead.newest()

    assert letter.reason.type == "UnreadableLetter"


def test_the_newest_come_first_over_many_pages_and_later_ones_are_not_met(dead: DeadLetters, redis: Redis) -> None:
    bury_many(redis, 2 * PAGE_LETTERS + 1)

    letters = dead.newest()
    met = [next(letters).document_id]
    bury(redis, {b"id": b"later"})
    met += [letter.document_id for letter in letters]

    assert met == [str(i) for i in reversed(range(2 * PAGE_LETTERS + 1))]


def test_letters_of_one_reason_are_found_among_others(dead: DeadLetters, redis: Redis) -> None:
    bury(redis, {b"id": b"1"}, reason="DocumentError")
    bury_many(redis, PAGE_LETTERS)
    bury(redis, {b"id": b"2"}, reason="DocumentError")

    assert [letter.document_id for letter in dead.newest("DocumentError")] == ["2", "1"]


def test_an_id_names_a_letter_or_all_letters_of_a_document_newest_first(dead: DeadLetters, redis: Redis) -> None:
    first, other, second = (bury(redis, {b"id": name}) for name in (b"42", b"other", b"42"))
    named_like_a_letter = bury(redis, {b"id": other.encode()})

    found = dead.find(["42", other, named_like_a_letter, "none", "9-9", "99999999999999999999999-1", "-", "+"])

    assert found == {
        "42": [second, first],
        other: [other],
        named_like_a_letter: [named_like_a_letter],
        "none": [],
        "9-9": [],
        "99999999999999999999999-1": [],
        "-": [],
        "+": [],
    }


def test_dropped_letters_are_gone_and_counted_once(dead: DeadLetters, redis: Redis) -> None:
    first, second = bury(redis, {b"id": b"1"}), bury(redis, {b"id": b"2"})

    assert [dead.drop([first]), dead.drop([first]), dead.drop([])] == [1, 0, 0]

    assert [letter.letter_id for letter in dead.newest()] == [second]


@pytest.mark.integration
def test_documents_that_one_engine_cannot_read_are_done_by_the_next(settings: Settings, tmp_path: Path) -> None:
    documents = [str(i) for i in range(20)]
    with LocalRedis() as server, DeadLetters(at(settings, server.port)) as dead:
        store = connect(RedisUrl(server.url))
        for i in documents:
            store.xadd(KEYS.normal, {"id": i, "text": f"!raise {i}", "reply_to": KEYS.reply("me")})

        with WorkerProcess(at(settings, server.port), "load_capitals", tmp_path / "first.log"):
            wait_until(lambda: store.xlen(KEYS.dead) == 20, 30)
        failed = [Answer.validate_json(store.get(KEYS.result(i)) or b"").status for i in documents]

        with WorkerProcess(at(settings, server.port), "load_noop", tmp_path / "second.log"):
            subprocess.run(RETRY_ALL, env=environment(at(settings, server.port)), check=True)
            wait_until(lambda: store.xlen(KEYS.reply("me")) == 40, 30)
        done = [Answer.validate_json(store.get(KEYS.result(i)) or b"").status for i in documents]

        assert (failed, done) == (["failed"] * 20, ["done"] * 20)
        assert (ids_in(store, *KEYS.streams), ids_in_letters(dead)) == ([], [])
        store.close()


@pytest.mark.integration
def test_a_retry_that_is_killed_again_and_again_loses_nothing_and_puts_nothing_back_twice(
    dead: DeadLetters, redis: Redis, settings: Settings
) -> None:
    documents = [str(i) for i in range(3000)]
    bury_many(redis, len(documents))

    for kill in range(1, 6):
        with subprocess.Popen(RETRY_ALL, env=environment(settings), stdout=subprocess.DEVNULL) as retry:
            wait_until(lambda kill=kill: redis.xlen(KEYS.normal) >= 100 * kill, 30)
            retry.kill()
        back = ids_in(redis, KEYS.normal)
        assert len(back) < len(documents), "it must be killed before its end"
        assert back + ids_in_letters(dead) == documents

    subprocess.run(RETRY_ALL, env=environment(settings), check=True)
    assert (ids_in(redis, KEYS.normal), ids_in_letters(dead)) == (documents, [])


@pytest.mark.integration
def test_two_retries_at_once_put_every_document_back_once(dead: DeadLetters, redis: Redis, settings: Settings) -> None:
    bury_many(redis, 500)

    commands = [subprocess.Popen(RETRY_ALL, env=environment(settings), stdout=subprocess.PIPE) for _ in range(2)]
    said = [command.communicate(timeout=60)[0].decode() for command in commands]

    assert [command.returncode for command in commands] == [0, 0], said
    assert sorted(ids_in(redis, KEYS.normal), key=int) == [str(i) for i in range(500)]
    assert ids_in_letters(dead) == []


@pytest.mark.integration
def test_a_redis_that_is_killed_during_a_retry_has_every_document_in_one_place(
    settings: Settings, durable_server: DurableRedis
) -> None:
    durable = at(settings, durable_server.port)
    connection = connect(durable.redis_url)
    documents = [str(i) for i in range(400)]
    bury_many(connection, len(documents))

    with subprocess.Popen(RETRY_ALL, env=environment(durable), stderr=subprocess.PIPE) as retry:
        wait_until(lambda: connection.xlen(KEYS.normal) >= 50, 30)
        durable_server.kill()
        message = retry.communicate(timeout=30)[1].decode()
    durable_server.start()

    assert (retry.returncode, message.count("\n")) == (2, 1), message
    assert message.startswith("error: cannot reach Redis at")
    with DeadLetters(durable) as dead:
        back = ids_in(connection, KEYS.normal)
        assert 50 <= len(back) < len(documents)
        assert back + ids_in_letters(dead) == documents
    connection.close()
