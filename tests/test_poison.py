"""Documents that mean harm: a thousand malformed ones among good ones, and those that kill whoever runs them."""

import json
import random
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.engines import extract
from tests.workers import WorkerProcess, wait_until
from worker.client import Client
from worker.protocol import Keys
from worker.results import DeadLetter
from worker.settings import Settings

pytestmark = pytest.mark.integration

KEYS = Keys("test:")
LONGEST = 100_000
COUNT = 1000


def nothing_is_left(store: Redis) -> bool:
    if any(store.xlen(stream) for stream in KEYS.streams):
        return False
    return not any(store.xpending(stream, KEYS.group)["pending"] for stream in KEYS.streams)


@dataclass(frozen=True)
class Malformed:
    """One entry that must be buried.

    Attributes:
        fields: Names and values in turn.
        message: What the reason must contain.
        answered: The id under which a failure must stand; None if none can be trusted.
    """

    fields: list[bytes]
    message: str
    answered: str | None


def malformed(number: int, chance: random.Random) -> Malformed:
    """One of every kind of malformed entry, each with other bytes in it."""
    name = f"bad {number}"
    noise = chance.randbytes(chance.randint(1, 40))
    broken = noise + chance.choice([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf0\x9f\x98"]) + b"."
    good = [b"id", name.encode(), b"text", b"ADA"]
    bad_id: Callable[[bytes], list[bytes]] = lambda value: [b"id", value, b"text", b"ADA"]  # noqa: E731 - one of a table
    deep = chance.randint(300, 50_000)
    kinds: list[Malformed] = [
        Malformed([b"text", b"ADA"], "must have the field id", None),
        Malformed(good[:2], "must have the field text", name),
        Malformed([b"field " + noise, noise], "unknown field", None),
        Malformed([*good, b"txt", noise], "unknown field 'txt'", name),
        Malformed([*good, b"", noise], "unknown field ''", name),
        Malformed([*good, b"text", b"BABBAGE"], "unknown field 'text (2)'", name),
        Malformed([*good, b"meta", b"1", b"meta", b"2"], "unknown field 'meta (2)'", name),
        Malformed([b"id", name.encode(), b"text", broken], "text must be UTF-8", name),
        Malformed(bad_id(broken), "id must be UTF-8", None),
        Malformed([*good, b"meta", b'"' + broken + b'"'], "meta must be UTF-8", name),
        Malformed([*good, broken, b"x"], "unknown field", name),
        Malformed([b"id", name.encode(), b"text", b"x" * (LONGEST + 1 + number)], "text must have at most", name),
        Malformed([*good, b"v", chance.choice([b"2", b"0", b"", b"1.0", b" 1", broken])], "v must be 1", name),
        Malformed(bad_id(b""), "id must have 1 to 256 characters", None),
        Malformed(bad_id(b"a" * chance.randint(257, 5000)), "id must have 1 to 256 characters", None),
        Malformed(bad_id(b"a\n" + name.encode()), "none of them a control character", None),
        Malformed(bad_id(b"\r\nFLUSHALL\r\n"), "none of them a control character", None),
        Malformed(bad_id("a\u2028b".encode()), "none of them a control character", None),
        Malformed([*good, b"meta", b"[" * deep], "meta must be JSON", name),
        Malformed([*good, b"meta", b'{"a":' * deep + b"1" + b"}" * deep], "nested at most 200 deep", name),
        Malformed([*good, b"meta", chance.choice([b"NaN", b"-Infinity", b"{", b"'x'", b"01"])], "meta must be", name),
        Malformed([*good, b"meta", b"1" * chance.randint(5_000, 50_000)], "meta must be JSON", name),
        Malformed([*good, b"reply_to", chance.choice([b"sessions", b"test:dead", b"test:result:1"])], "reply_to", name),
        Malformed([*good, b"reply_to", b"test:reply:\n"], "reply_to must have", name),
        Malformed([*good, b"labels", chance.choice([b"", b",", b"WORD,,LONG"])], "labels must be names", name),
        Malformed([*good, b"labels", b"WORD,PERSON"], "labels must be among WORD, LONG, was: 'PERSON'", name),
    ]
    return kinds[number % len(kinds)]


def megabytes() -> list[Malformed]:
    """The few that are too large to send them by the hundred."""
    mega = b"x" * 1_000_000
    keys = b"{" + b",".join(b'"%d":0' % number for number in range(150_000)) + b"}"
    return [
        Malformed([b"id", mega, b"text", b"ADA"], "id must have 1 to 256 characters", None),
        Malformed([b"id", b"long", b"text", 5 * mega], "more than any field may have", "long"),
        Malformed([b"id", b"keys", b"text", b"", b"meta", keys], "at most 1000000 characters", "keys"),
        Malformed([b"id", b"name", b"text", b"", mega, b"x"], "unknown field", "name"),
        Malformed([b"id", b"labels", b"text", b"", b"labels", mega], "labels must be names", "labels"),
        Malformed([b"id", b"fields", b"text", b"", *([b"x", b"y"] * 10_000)], "unknown field 'x'", "fields"),
    ]


def good(number: int, chance: random.Random) -> dict[str, str]:
    """A document that must be done, some under ids and with data that look dangerous and are not."""
    odd = ["*", "[a-z]", "../dead", "test:dead", "{x}", "'; FLUSHALL", "$(reboot)", "\u202e", "a" * 250, "%s"]
    name = f"{chance.choice(odd)}{number}" if number % 5 == 0 else f"good {number}"
    nested = "[" * 150 + "]" * 150
    many = json.dumps(dict.fromkeys(map(str, range(chance.randint(1, 500)))))
    meta = chance.choice(["null", '"x"', nested, many, "1e308", '{"a": 1, "a": 2}'])
    text = " ".join(chance.choice(["ADA", "met", "BABBAGE", "in", "伦敦", "\U0001f642", "\x00"]) for _ in range(20))
    return {"id": name, "text": text, "meta": meta} | ({"v": "1"} if number % 2 else {})


def test_a_thousand_malformed_entries_among_a_thousand_good_ones_are_buried_and_the_good_ones_done(
    settings: Settings, store: Redis, tmp_path: Path
) -> None:
    chance = random.Random(1)
    bad = megabytes()
    bad += [malformed(number, chance) for number in range(COUNT - len(bad))]
    documents = [good(number, chance) for number in range(COUNT)]
    everything = [*bad, *documents]
    chance.shuffle(everything)
    expected: dict[tuple[str, str], Malformed] = {}

    with WorkerProcess(settings, "load_capitals", tmp_path / "log", max_document_characters=LONGEST) as worker:
        worker.wait_until_ready()
        for entry in everything:
            stream = chance.choice(KEYS.streams)
            if isinstance(entry, Malformed):
                entry_id = store.execute_command("XADD", stream, "*", *entry.fields).decode()
                expected[stream, entry_id] = entry
            else:
                store.xadd(stream, entry)
        wait_until(lambda: worker.ended() is not None or nothing_is_left(store), 60)

        assert worker.ended() is None
        counted = worker.metric("gpner_documents_total", outcome="failed")
    letters = [DeadLetter.model_validate_json(fields[b"letter"]) for _, fields in store.xrange(KEYS.dead)]
    assert {(letter.entry.stream, letter.entry.id) for letter in letters} == set(expected)
    assert len(letters) == counted == COUNT
    for letter in letters:
        assert expected[letter.entry.stream, letter.entry.id].message in letter.reason.message
    for document in documents:
        answer = json.loads(store.get(KEYS.result(document["id"])))
        assert answer["status"] == "done"
        assert [entity["text"] for entity in answer["entities"]] == [e.text for e in extract(document["text"]).entities]
        assert answer["meta"] == json.loads(document["meta"])
    failed = {entry.answered for entry in bad} - {None}
    assert all(json.loads(store.get(KEYS.result(name)))["status"] == "failed" for name in failed)
    assert len(list(store.scan_iter(KEYS.result("*")))) == len(documents) + len(failed)
    assert "Traceback" not in worker.log.read_text()


def test_two_documents_of_one_id_are_both_answered_and_the_second_overwrites(
    settings: Settings, store: Redis, tmp_path: Path
) -> None:
    with WorkerProcess(settings, "load_capitals", tmp_path / "log") as worker:
        worker.wait_until_ready()
        for text in ("ADA", "BABBAGE"):
            store.xadd(KEYS.normal, {"id": "same", "text": text, "reply_to": KEYS.reply("me")})
            wait_until(lambda: nothing_is_left(store))

    replies = [json.loads(fields[b"result"]) for _, fields in store.xrange(KEYS.reply("me"))]
    assert [reply["entities"][0]["text"] for reply in replies] == ["ADA", "BABBAGE"]
    assert json.loads(store.get(KEYS.result("same"))) == replies[1]


def test_a_document_that_wants_more_memory_than_there_is_is_buried_and_its_worker_lives(
    settings: Settings, store: Redis, tmp_path: Path
) -> None:
    texts = [f"NUMBER {number}" + " !eat" * (number == 3) for number in range(8)]
    with WorkerProcess(settings, "load_capitals", tmp_path / "log") as worker, Client(settings) as client:
        worker.wait_until_ready()

        answers = list(client.extract_many(texts))

        assert worker.ended() is None
    assert [number for number, answer in enumerate(answers) if answer.status == "failed"] == [3]
    assert json.loads(store.get(KEYS.result(answers[3].id)))["error"]["type"] == "OutOfMemoryError"


@pytest.mark.slow
def test_many_documents_that_kill_their_workers_are_buried_after_five_deliveries_and_take_no_other_down(
    settings: Settings, store: Redis, tmp_path: Path
) -> None:
    orders = {7: "!crash", 8: "!oom", 20: "!hang", 41: "!crash", 42: "!stall"}
    options: dict[str, Any] = {"lease_seconds": 0.9, "max_batch_tokens": 40, "forward_deadline_seconds": 0.4}
    with Client(settings) as client:
        for number in range(100):
            client.submit(f"NUMBER {number} {orders.get(number, '')}", id=str(number))

    ends: Counter[int] = Counter()
    starts = 0
    while not nothing_is_left(store):
        with WorkerProcess(settings, "load_capitals", tmp_path / f"log{starts}", **options) as worker:
            starts += 1
            wait_until(lambda worker=worker: worker.ended() is not None or nothing_is_left(store), 30)
            ends[worker.ended() or 0] += 1

    answers = {name: json.loads(store.get(KEYS.result(str(name)))) for name in range(100)}
    assert {name for name, answer in answers.items() if answer["status"] == "failed"} == set(orders)
    assert {answers[name]["error"]["type"] for name in orders} == {"TooManyDeliveries"}
    letters = [DeadLetter.model_validate_json(fields[b"letter"]) for _, fields in store.xrange(KEYS.dead)]
    assert [letter.deliveries for letter in letters] == [6] * len(orders)
    assert set(ends) <= {-signal.SIGSEGV, -signal.SIGKILL, 70, 0}
    # Each alone three times, after two deaths in company.
    assert starts <= 5 * len(orders) + 1
