"""Holds what Redis has in the end against what producers were told."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from redis import Redis

from gpner.entities import Extraction
from tests.chaos.ledger import Ledger, Sent
from tests.workers import immortal_keys
from worker.protocol import Keys
from worker.settings import Settings

# So many of one kind are named.
SHOWN = 5
MESSAGE_CHARACTERS = 300


@dataclass
class Audit:
    """What became of the documents of one scenario.

    Attributes:
        documents: Documents of which a producer was told that they are accepted.
        done: Those whose result stands under their id.
        failed: Those whose failure stands there.
        lost: Accepted documents that have no outcome, or whose producer got no reply.
        twice: Replies too many: beyond the first to one submit.
        calls: Calls of the Celery task that Redis accepted.
        calls_lost: Those of them that have no answer.
    """

    documents: int = 0
    done: int = 0
    failed: int = 0
    lost: int = 0
    twice: int = 0
    calls: int = 0
    calls_lost: int = 0
    _wrong: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def problems(self) -> list[str]:
        """Everything that is not as it must be, lost and doubled documents too; a line for each kind."""
        return [f"{what}: {_some(names)}" for what, names in self._wrong.items()]

    def tell(self, what: str, *names: str) -> None:
        """Note what is wrong, and with which of its kind."""
        if names:
            self._wrong[what] += names


def _some(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= SHOWN else f"{', '.join(names[:SHOWN])} and {len(names) - SHOWN} more"


def audit(
    store: Redis,
    settings: Settings,
    ledger: Ledger,
    reply_to: str,
    extract: Callable[[str], Extraction],
    tolerance: float = 0.0,
) -> Audit:
    """Read everything that the service left in Redis; to be called when it stands still, or is stuck.

    Args:
        store: A connection to Redis.
        settings: The service's settings.
        ledger: What was sent.
        reply_to: The stream that all documents named.
        extract: What the engine must find in a text.
        tolerance: How far a score may be from that.
    """
    keys = Keys(settings.namespace)
    outcomes = _outcomes(store, keys)
    replies: dict[str, list[bytes]] = defaultdict(list)
    for _, fields in store.xrange(reply_to):
        replies[json.loads(fields[b"result"])["id"]].append(fields[b"result"])

    found = Audit(documents=ledger.accepted())
    for document_id, sent in list(ledger.documents.items()):
        _audit_document(document_id, sent, outcomes.get(document_id), replies[document_id], found)
        for payload in replies[document_id]:
            if wrong := _what_is_wrong(json.loads(payload), sent, extract, tolerance):
                found.tell(f"{wrong} in document", document_id)
    _audit_calls(store, settings, ledger, extract, tolerance, found)
    strangers = (outcomes.keys() | replies.keys()) - ledger.documents.keys()
    strangers = {name for name in strangers if not _is_of_a_call(name, ledger)}
    found.tell("results of documents that nobody sent", *sorted(strangers))
    found.tell("keys without a time to live", *sorted(immortal_keys(settings) - {*keys.streams, keys.dead}))
    _audit_streams(store, keys, replies, found)
    return found


def _outcomes(store: Redis, keys: Keys) -> dict[str, bytes]:
    names = list(store.scan_iter(keys.result("*"), count=1000))
    payloads = store.mget(names) if names else []
    return {name.decode().removeprefix(keys.result("")): payload for name, payload in zip(names, payloads, strict=True)}


def _audit_document(document_id: str, sent: Sent, outcome: bytes | None, replies: list[bytes], found: Audit) -> None:
    """Count one document, and hold every attempt to what its producer was told."""
    counts = Counter(json.loads(reply)["meta"]["attempt"] for reply in replies)
    missing = [n for n, told in enumerate(sent.attempts) if told == "accepted" and not counts[n]]
    doubled = sum(times - 1 for times in counts.values() if times > 1)
    if sent.accepted and (outcome is None or missing):
        found.lost += 1
        found.tell("lost, without a reply" if outcome else "lost, without a result", document_id)
    if doubled:
        found.twice += doubled
        found.tell("answered too often", document_id)
    if any(counts[n] for n, told in enumerate(sent.attempts) if told == "refused"):
        found.tell("refused, and read all the same", document_id)
    if outcome is not None:
        if sent.accepted:
            status = json.loads(outcome)["status"]
            found.done += status == "done"
            found.failed += status == "failed"
        if outcome not in replies:
            found.tell("with a result that is none of the replies", document_id)


def _audit_calls(
    store: Redis,
    settings: Settings,
    ledger: Ledger,
    extract: Callable[[str], Extraction],
    tolerance: float,
    found: Audit,
) -> None:
    """Count the calls, and hold each answer to what the engine must find."""
    for task_id, sent in list(ledger.calls.items()):  # a service that is stuck is still being called
        found.calls += sent.accepted
        payload = store.get(f"{settings.namespace}celery-task-meta-{task_id}")
        if payload is None:
            found.calls_lost += sent.accepted
            continue
        ended = json.loads(payload)
        if ended["status"] != "SUCCESS":
            found.tell(f"{ended['status']} with {str(ended['result'])[:MESSAGE_CHARACTERS]} in call", task_id)
            continue
        answers = ended["result"]
        if len(answers) != len(sent.texts):
            found.tell(f"{len(answers)} answers to {len(sent.texts)} documents in call", task_id)
        for text, answer in zip(sent.texts, answers, strict=False):
            if wrong := _what_is_wrong(answer, Sent(text), extract, tolerance):
                found.tell(f"{wrong} in call", task_id)


def _is_of_a_call(document_id: str, ledger: Ledger) -> bool:
    """Whether a document's id is one that the task makes for a call: `task:`, the task's id, a digest, a number."""
    task_id, _, rest = document_id.removeprefix("task:").partition(":")
    number = rest.rpartition(":")[2]
    return task_id in ledger.calls and number in map(str, range(len(ledger.calls[task_id].texts)))


def _what_is_wrong(
    answer: dict[str, Any], sent: Sent, extract: Callable[[str], Extraction], tolerance: float
) -> str | None:
    """Compare one answer with what the engine must find."""
    if sent.error_type or answer["status"] == "failed":
        ended = answer.get("error", {}).get("type", "done")
        return None if ended == sent.error_type else f"{ended} instead of {sent.error_type or 'done'}"
    expected = extract(sent.text)
    if (answer["tokens"], answer["windows"]) != (expected.tokens, expected.windows):
        return "wrong counts of tokens or windows"
    spans = [(entity["start"], entity["end"], entity["label"], entity["text"]) for entity in answer["entities"]]
    if spans != [(entity.start, entity.end, entity.label, entity.text) for entity in expected.entities]:
        return "wrong entities"
    scores = zip(answer["entities"], expected.entities, strict=True)
    if any(abs(entity["score"] - other.score) > tolerance for entity, other in scores):
        return f"scores that are off by more than {tolerance:g}"
    return None


def _audit_streams(store: Redis, keys: Keys, replies: dict[str, list[bytes]], found: Audit) -> None:
    for stream in keys.streams:
        if left := store.xlen(stream):
            found.tell("entries left on", f"{stream} ({left})")
        for consumer in store.xinfo_consumers(stream, keys.group):
            if consumer["pending"]:
                found.tell("entries pending with", f"{consumer['name'].decode()} ({consumer['pending']})")
    failures = sum(json.loads(payload)["status"] == "failed" for payloads in replies.values() for payload in payloads)
    if (letters := store.xlen(keys.dead)) != failures:
        found.tell("as many dead letters as failures there must be", f"{letters} of {failures}")
