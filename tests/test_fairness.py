"""Urgent documents first, and yet no stream starves: the shares of the streams under a lasting flood."""

import json
from collections import Counter
from pathlib import Path

import pytest
from redis import Redis

from tests.consumers import add
from tests.workers import WorkerProcess, wait_until
from worker.protocol import Keys
from worker.queue import DocumentQueue
from worker.settings import Settings

KEYS = Keys("test:")
READS = 240


@pytest.mark.parametrize("share", [0, 0.05, 0.125, 0.3, 1 / 3])
@pytest.mark.parametrize("count", [1, 7])
def test_under_a_flood_each_stream_has_its_share(settings: Settings, redis: Redis, share: float, count: int) -> None:
    queue = DocumentQueue(settings.model_copy(update={"fair_share": share}), consumer="ada")
    queue.ensure()
    for stream in KEYS.streams:
        add(queue, READS, stream)

    read = [entry.stream for _ in range(READS // count) for entry in queue.read(count, 0)]
    queue.close()

    counted = Counter(read)
    assert counted[KEYS.normal] == pytest.approx(share * len(read), abs=2 * count)
    assert counted[KEYS.bulk] == pytest.approx(share * len(read), abs=2 * count)
    assert read[0] == KEYS.high


def test_the_share_is_one_of_the_work_and_not_of_the_documents(settings: Settings, redis: Redis) -> None:
    queue = DocumentQueue(settings.model_copy(update={"fair_share": 0.2}), consumer="ada")
    queue.ensure()
    add(queue, 1000, KEYS.high, text="x" * 1000)
    add(queue, 1000, KEYS.bulk, text="x" * 20_000)

    read = Counter(queue.read(1, 0)[0].stream for _ in range(500))
    queue.close()

    assert read[KEYS.bulk] * 20 / (read[KEYS.bulk] * 20 + read[KEYS.high]) == pytest.approx(0.2, abs=0.03)


def test_a_stream_that_was_empty_or_had_the_worker_for_itself_neither_saves_nor_owes(queue: DocumentQueue) -> None:
    add(queue, 200, KEYS.high)
    for _ in range(40):
        queue.read(5, 0)
    add(queue, 200, KEYS.bulk)
    for _ in range(20):
        queue.read(5, 0)
    add(queue, 200, KEYS.high)

    read = Counter(entry.stream for _ in range(16) for entry in queue.read(5, 0))

    assert read[KEYS.bulk] == pytest.approx(80 / 8, abs=5)


def test_without_more_urgent_documents_the_others_have_all_reads(queue: DocumentQueue) -> None:
    add(queue, 20, KEYS.bulk)

    assert [len(queue.read(5, 0)) for _ in range(5)] == [5, 5, 5, 5, 0]


@pytest.mark.integration
@pytest.mark.parametrize("share", [0.125, 0.3])
def test_a_flood_of_urgent_documents_leaves_the_others_their_share_of_a_worker(
    settings: Settings, store: Redis, tmp_path: Path, share: float
) -> None:
    for stream in KEYS.streams:
        flood(store, stream, 2000)
    options = {"fair_share": share, "max_batch_tokens": 60, "max_held_tokens": 240}
    with WorkerProcess(settings, "tests.chaos.engine:load_brisk", tmp_path / "log", **options):
        wait_until(lambda: store.xlen(KEYS.reply("all")) >= 1000, 30)

    answers = [json.loads(fields[b"result"])["id"] for _, fields in store.xrange(KEYS.reply("all"), count=1000)]
    counted = Counter(name.rpartition(" ")[0] for name in answers)
    assert store.xlen(KEYS.high), "the flood must have lasted"
    assert counted[KEYS.bulk] / 1000 == pytest.approx(share, rel=0.25)
    assert counted[KEYS.normal] / 1000 == pytest.approx(share, rel=0.25)


def flood(store: Redis, stream: str, documents: int) -> None:
    pipeline = store.pipeline(transaction=False)
    for number in range(documents):
        pipeline.xadd(stream, {"id": f"{stream} {number}", "text": "one two", "reply_to": KEYS.reply("all")})
    pipeline.execute()
