"""What older releases left in Redis is read by this one, and what newer ones write is refused in words."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.consumers import wait_out_the_lease
from tests.workers import WorkerProcess, wait_until
from worker.client import Client
from worker.dead import DeadLetters
from worker.protocol import Keys
from worker.queue import RELEASED_MILLISECONDS
from worker.settings import Settings

KEYS = Keys("test:")
# What clients of the first release wrote besides id and text; any of it may be missing.
OPTIONAL = {"meta": '{"page": 7.10}', "reply_to": "test:reply:me", "labels": "WORD, LONG", "v": "1"}
# As the first release wrote it, before results had a revision.
FIRST_RESULT = (
    b'{"v":1,"id":"old","status":"done","entities":[{"start":0,"end":3,"label":"WORD","text":"ADA","score":0.5}],'
    b'"model":"capitals","tokens":1,"windows":1,"seconds":{"queued":0.001,"total":0.002},"meta":null}'
)
FIRST_LETTER = (
    b'{"v":1,"reason":{"type":"DocumentError","message":"v must be 1"},"deliveries":1,"entry":{"stream":'
    b'"test:documents:bulk","id":"5-0","encoding":"utf-8","fields":{"id":"seven","text":"ADA","v":"1"}}}'
)


def result(store: Redis, name: str) -> Any:
    wait_until(lambda: store.exists(KEYS.result(name)))
    return json.loads(store.get(KEYS.result(name)))


@pytest.mark.integration
def test_entries_of_version_1_are_read_whichever_of_their_fields_are_missing(
    settings: Settings, store: Redis, tmp_path: Path
) -> None:
    entries = {}
    for size in range(len(OPTIONAL) + 1):
        for names in itertools.combinations(OPTIONAL, size):
            entries[" ".join(names) or "none"] = {name: OPTIONAL[name] for name in names}
    for name, fields in entries.items():
        store.xadd(KEYS.normal, {"id": name, "text": "ADA", **fields})

    with WorkerProcess(settings, "load_capitals", tmp_path / "log"):
        answers = {name: result(store, name) for name in entries}

    assert {answer["status"] for answer in answers.values()} == {"done"}
    for name, answer in answers.items():
        assert answer["meta"] == (json.loads(OPTIONAL["meta"]) if "meta" in entries[name] else None)
    replies = {json.loads(fields[b"result"])["id"] for _, fields in store.xrange(KEYS.reply("me"))}
    assert replies == {name for name, fields in entries.items() if "reply_to" in fields}


@pytest.mark.integration
def test_an_entry_of_a_version_to_come_is_buried_with_a_hint(settings: Settings, store: Redis, tmp_path: Path) -> None:
    store.xadd(KEYS.normal, {"id": "new", "text": "ADA", "v": "2", "language": "en"})

    with WorkerProcess(settings, "load_capitals", tmp_path / "log"):
        answer = result(store, "new")

    assert answer["error"] == {
        "type": "DocumentError",
        "message": "v must be 1, was: '2'; a newer release wrote this entry: upgrade the workers",
    }
    assert store.xlen(KEYS.dead) == 1


@pytest.mark.integration
def test_what_a_worker_of_an_older_release_held_or_handed_back_is_drained(
    settings: Settings, store: Redis, tmp_path: Path
) -> None:
    for stream in KEYS.streams:
        store.xgroup_create(stream, "workers", id="0", mkstream=True)
        for number in range(10):
            store.xadd(stream, {"id": f"{stream} {number}", "text": "ADA"})
    # The older worker as Redis sees it: plain commands. It dies with most, and hands some back in good order.
    for stream in KEYS.streams:
        ((_, rows),) = store.xreadgroup("workers", "host-1-old", {stream: ">"}, count=6)
        store.xclaim(stream, "workers", "host-1-old", 0, [rows[0][0]], idle=RELEASED_MILLISECONDS, retrycount=0)
    wait_out_the_lease()

    with WorkerProcess(settings, "load_capitals", tmp_path / "log", lease_seconds=0.3):
        wait_until(lambda: not any(store.xlen(stream) for stream in KEYS.streams))

    assert len(list(store.scan_iter(KEYS.result("*")))) == 30
    assert not any(store.xpending(stream, KEYS.group)["pending"] for stream in KEYS.streams)


def test_a_result_of_an_older_release_is_read(settings: Settings, redis: Redis) -> None:
    redis.set(KEYS.result("old"), FIRST_RESULT, ex=100)

    with Client(settings) as client:
        answer = client.result("old", timeout_seconds=1)

    assert (answer.entities[0].text, answer.model, answer.revision) == ("ADA", "capitals", "")


def test_a_dead_letter_of_an_older_release_can_be_put_back(settings: Settings, redis: Redis) -> None:
    letter_id = redis.xadd(KEYS.dead, {"letter": FIRST_LETTER}).decode()

    with DeadLetters(settings) as letters:
        (letter,) = letters.newest()
        assert letters.retry(letter_id)

    assert (letter.document_id, letter.reason.message, letter.deliveries) == ("seven", "v must be 1", 1)
    assert [fields for _, fields in redis.xrange(KEYS.bulk)] == [{b"id": b"seven", b"text": b"ADA", b"v": b"1"}]
