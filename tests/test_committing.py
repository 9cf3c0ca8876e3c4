"""The commit thread: what waits goes to Redis together, and all of it goes before the end."""

import threading

from gpner.entities import Extraction
from tests.consumers import add
from worker.committing import SCRIPT_DOCUMENTS, WAITING_PACKS, Committer
from worker.held import Held, Holdings
from worker.metrics import Metrics
from worker.outcomes import Done, Finished
from worker.protocol import Document
from worker.queue import DocumentQueue


def read(queue: DocumentQueue, count: int) -> list[Finished]:
    """Documents from the queue, done."""
    add(queue, count)
    entries = queue.read(count, 0)
    documents = [Document.from_fields(entry.fields, queue.keys, 1000) for entry in entries]
    held = [Held(entry, document, 1, 0.0) for entry, document in zip(entries, documents, strict=True)]
    return [Done(one, Extraction((), 1, 1), "model", "") for one in held]


def committer(queue: DocumentQueue, metrics: Metrics) -> Committer:
    return Committer(queue, holdings=Holdings(1000), metrics=metrics, giving_up=threading.Event())


def scripts(metrics: Metrics) -> float | None:
    """How many commits there were."""
    return metrics.registry.get_sample_value("gpner_stage_duration_seconds_count", {"stage": "commit"})


def test_packs_that_wait_go_to_redis_in_one_script_and_all_go_before_the_end(queue: DocumentQueue) -> None:
    finished, metrics = read(queue, 2 * WAITING_PACKS), Metrics()
    commit = committer(queue, metrics)

    for start in range(0, len(finished), 2):
        commit.put(finished[start : start + 2])
    commit.close()
    commit.run()

    assert queue.depth()[queue.keys.normal] == 0
    assert (commit.ended, scripts(metrics)) == (len(finished), 1)


def test_a_pack_larger_than_a_script_goes_in_several(queue: DocumentQueue) -> None:
    finished, metrics = read(queue, SCRIPT_DOCUMENTS + 1), Metrics()
    commit = committer(queue, metrics)

    commit.put(finished)
    commit.close()
    commit.run()

    assert (commit.ended, scripts(metrics)) == (len(finished), 2)


def test_whoever_hands_over_too_much_waits_until_some_of_it_is_committed(queue: DocumentQueue) -> None:
    packs = [read(queue, 1) for _ in range(WAITING_PACKS + 1)]
    commit = committer(queue, Metrics())
    device = threading.Thread(target=lambda: [commit.put(pack) for pack in packs])
    device.start()
    device.join(0.2)
    waits = device.is_alive()

    committing = threading.Thread(target=commit.run)
    committing.start()
    device.join(5)
    commit.close()
    committing.join(5)

    assert waits
    assert commit.ended == len(packs)
