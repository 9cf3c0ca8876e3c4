"""The audit notices whatever is not as it must be, and every scenario ends with one."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from tests.chaos.audit import Audit, audit
from tests.chaos.caller import Caller
from tests.chaos.faults import FAULTS, Fault, Scene, kill_worker
from tests.chaos.ledger import Ledger
from tests.chaos.producer import Producer
from tests.chaos.scenario import WORDS, Load, run, unexplained
from tests.chaos.service import Service
from tests.chaos.sites import plain
from tests.engines import extract
from tests.workers import wait_until
from worker.protocol import Keys

pytestmark = pytest.mark.integration

KEYS = Keys("chaos:")
REPLIES = KEYS.reply("producer")
GOOD, BAD = "0", "1"
CALL = "call-0"
ANSWER = f"chaos:celery-task-meta-{CALL}"


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Ledger]]:
    """A service that has answered two documents, one of them with a failure, and a call, and whose worker is gone."""
    folder = tmp_path_factory.mktemp("audit")
    ledger = Ledger()
    with ExitStack() as stack:
        redis = stack.enter_context(plain(folder)).redis
        service = stack.enter_context(Service(redis, folder, "tests.engines:load_capitals", 1, {}))
        producer = Producer(service, ledger, "steady", WORDS, 0)
        assert producer.submit(["ADA in LONDON"]) == [GOOD]
        assert producer.submit(["NOBODY !raise"], "ValueError") == [BAD]
        caller = Caller(service, ledger, WORDS, 0)
        caller.send(["ADA", "PARIS"], "high")
        caller.wait_for_answers()
        service.wait_until_quiet()
        service.workers.close()
        yield service, ledger


@pytest.fixture
def store(ended: tuple[Service, Ledger]) -> Iterator[Redis]:
    """Its Redis, which is afterwards as it was."""
    store = ended[0].store
    kept = {key: (store.dump(key), max(0, store.pttl(key))) for key in store.scan_iter()}
    yield store
    store.flushall()
    for key, (value, milliseconds) in kept.items():
        store.restore(key, milliseconds, value)


@pytest.fixture
def ledger(ended: tuple[Service, Ledger]) -> Ledger:
    """A copy of what its producer noted."""
    ledger = Ledger()
    ledger.documents, ledger.calls = deepcopy(ended[1].documents), deepcopy(ended[1].calls)
    return ledger


@pytest.fixture
def look(ended: tuple[Service, Ledger], store: Redis, ledger: Ledger) -> Callable[[], Audit]:
    """Returns a function that audits the store against the ledger."""
    return lambda: audit(store, ended[0].settings, ledger, REPLIES, extract)


def last_reply(store: Redis, document_id: str) -> tuple[bytes, bytes]:
    """Entry id and payload."""
    rows = store.xrevrange(REPLIES)
    return next((entry, row[b"result"]) for entry, row in rows if json.loads(row[b"result"])["id"] == document_id)


def add_reply(store: Redis, payload: bytes) -> None:
    store.xadd(REPLIES, {"result": payload}, id="*")


def answer_otherwise(store: Redis, document_id: str, old: bytes, new: bytes) -> None:
    """Put another answer in place of the one that the service gave."""
    entry, payload = last_reply(store, document_id)
    assert old in payload
    store.xdel(REPLIES, entry)
    add_reply(store, payload.replace(old, new))
    store.set(KEYS.result(document_id), payload.replace(old, new), ex=100)


def answer_the_call_otherwise(store: Redis, old: bytes, new: bytes) -> None:
    answer = store.get(ANSWER) or b""
    assert old in answer
    store.set(ANSWER, answer.replace(old, new), ex=100)


def hold_without_end(store: Redis) -> None:
    entry = store.xadd(KEYS.normal, {"id": "x", "text": ""})
    store.xreadgroup(KEYS.group, "ghost", {KEYS.normal: ">"})
    store.xdel(KEYS.normal, entry)


def test_a_service_that_did_all_it_must_has_no_problem(look: Callable[[], Audit]) -> None:
    found = look()

    assert found.problems == []
    assert (found.documents, found.done, found.failed, found.lost, found.twice) == (2, 1, 1, 0, 0)
    assert (found.calls, found.calls_lost) == (1, 0)


def damages() -> dict[str, Callable[[Redis], object]]:
    """What the audit must say, and what was done to Redis behind the service's back."""
    return {
        "lost, without a result: 0": lambda store: store.delete(KEYS.result(GOOD)),
        "lost, without a reply: 0": lambda store: store.xdel(REPLIES, last_reply(store, GOOD)[0]),
        "answered too often: 0": lambda store: add_reply(store, last_reply(store, GOOD)[1]),
        "with a result that is none of the replies: 0": lambda store: store.set(
            KEYS.result(GOOD), last_reply(store, GOOD)[1] + b" ", ex=100
        ),
        "wrong entities in document: 0": lambda store: answer_otherwise(store, GOOD, b'"LONG"', b'"WORD"'),
        "scores that are off by more than 0 in document: 0": lambda store: answer_otherwise(
            store, GOOD, b'"score":0.5', b'"score":0.51'
        ),
        "wrong counts of tokens or windows in document: 0": lambda store: answer_otherwise(
            store, GOOD, b'"tokens":3', b'"tokens":4'
        ),
        "OSError instead of ValueError in document: 1": lambda store: answer_otherwise(
            store, BAD, b"ValueError", b"OSError"
        ),
        "results of documents that nobody sent: x": lambda store: store.set(KEYS.result("x"), b"{}", ex=100),
        "keys without a time to live: chaos:result:0": lambda store: store.persist(KEYS.result(GOOD)),
        f"wrong entities in call: {CALL}": lambda store: answer_the_call_otherwise(
            store, b'"text": "ADA"', b'"text": "IDA"'
        ),
        f"FAILURE with no more in call: {CALL}": lambda store: store.set(
            ANSWER, b'{"status": "FAILURE", "result": "no more"}', ex=100
        ),
        f"0 answers to 2 documents in call: {CALL}": lambda store: store.set(
            ANSWER, b'{"status": "SUCCESS", "result": []}', ex=100
        ),
        f"results of documents that nobody sent: task:{CALL}:0123456789ab:2": lambda store: store.set(
            KEYS.result(f"task:{CALL}:0123456789ab:2"), b"{}", ex=100
        ),
        f"entries left on: {KEYS.bulk} (1)": lambda store: store.xadd(KEYS.bulk, {"id": "x", "text": ""}),
        "entries pending with: ghost (1)": hold_without_end,
        "as many dead letters as failures there must be: 0 of 1": lambda store: store.delete(KEYS.dead),
    }


@pytest.mark.parametrize("said", damages())
def test_damage_behind_the_services_back_is_noticed(said: str, store: Redis, look: Callable[[], Audit]) -> None:
    damages()[said](store)

    found = look()

    assert said in found.problems
    assert found.lost == said.startswith("lost")
    assert found.twice == said.startswith("answered too often")


def test_a_call_without_an_answer_is_lost(store: Redis, look: Callable[[], Audit]) -> None:
    store.delete(ANSWER)

    assert look().calls_lost == 1


def test_a_document_that_was_refused_may_not_be_read(ledger: Ledger, look: Callable[[], Audit]) -> None:
    ledger.documents[GOOD].attempts = ["refused"]

    assert "refused, and read all the same: 0" in look().problems


def test_a_submit_that_was_cut_off_may_have_been_accepted_or_not(
    store: Redis, ledger: Ledger, look: Callable[[], Audit]
) -> None:
    ledger.documents[GOOD].attempts = ["accepted", "unknown"]
    not_accepted = look()
    add_reply(store, last_reply(store, GOOD)[1].replace(b'"attempt": 0', b'"attempt": 1'))
    accepted = look()

    assert not_accepted.problems == accepted.problems == []
    assert accepted.documents == accepted.done + accepted.failed == 2


def forge_a_reply(scene: Scene) -> None:
    """Answer a document a second time."""
    store = scene.service.store
    add_reply(store, store.xrange(REPLIES, count=1)[0][1][b"result"])


def lose_documents(scene: Scene) -> None:
    """Have Redis forget the documents that it has accepted; calls would wait for theirs."""
    entries = scene.service.store.xrange(KEYS.normal)
    scene.service.store.xdel(KEYS.normal, *(entry for entry, fields in entries if fields[b"id"][:5] != b"task:"))


def lose_an_answer(scene: Scene) -> None:
    """Have Redis forget what became of a call."""
    store = scene.service.store
    wait_until(lambda: any(store.delete(key) for key in store.scan_iter(f"{ANSWER[:-1]}*")), what="an answer")


def wait_for_nothing(scene: Scene) -> None:
    """Wait for what never comes."""
    wait_until(lambda: False, 0.1, "the impossible")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lose_documents, "lost, without a result"),
        (forge_a_reply, "answered too often"),
        (kill_worker, "workers that ended by themselves, with exit code: -9"),
        (lose_an_answer, "calls without an answer: "),
        (wait_for_nothing, "stuck after 0 faults: the impossible did not come within 0.1 s"),
    ],
)
def test_a_scenario_in_which_something_goes_wrong_says_so(
    act: Callable[[Scene], object], said: str, tmp_path: Path
) -> None:
    fault = Fault("sabotage", act, short=1, long=1, keeps_calls=True)

    report = run(fault, Load("backlog", 1), 1, 0, tmp_path)

    assert any(problem.startswith(said) for problem in report.audit.problems)


def test_a_worker_may_end_only_as_its_fault_explains() -> None:
    killed = next(fault for fault in FAULTS if fault.act is kill_worker)

    assert unexplained([-9, 0, -9, 70], killed) == ["0", "70"]
    assert unexplained([-9], replace(killed, exits=frozenset())) == ["-9"]
