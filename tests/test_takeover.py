"""How documents change hands: leases, releases, and the names of workers that are gone."""

import time

from tests.consumers import LEASE_SECONDS, Join, add, done, pending, take_over, wait_out_the_lease
from worker.queue import ENTRIES_PER_SCRIPT, DocumentQueue


def test_a_renewed_entry_is_not_taken_over(queue: DocumentQueue, join: Join) -> None:
    add(queue, 2)
    kept, abandoned = queue.read(2, 0)
    other = join("bob")
    other.lease_milliseconds = 3_600_000
    for entry in (kept, abandoned):
        silence = {"idle": 2 * other.lease_milliseconds, "justid": True}
        queue.redis.xclaim(queue.keys.normal, queue.keys.group, "ada", 0, [entry.entry_id], **silence)

    assert queue.renew([kept]) == []
    taken = take_over(other)

    assert [entry.entry_id for entry in taken] == [abandoned.entry_id]


def test_a_worker_that_comes_back_does_not_steal_its_entries_from_those_who_took_over(
    queue: DocumentQueue, join: Join
) -> None:
    add(queue, 3)
    finished, taken, kept = queue.read(3, 0)
    other = join("bob")
    wait_out_the_lease()
    queue.renew([kept])
    take_over(other)
    other.commit([done(other, finished)])

    lost = queue.renew([finished, taken, kept])

    assert lost == [finished, taken]
    assert pending(queue) == {taken.entry_id: "bob", kept.entry_id: "ada"}


def test_each_takeover_counts_as_a_delivery_and_renewing_does_not(queue: DocumentQueue, join: Join) -> None:
    add(queue)
    assert queue.read(1, 0)[0].deliveries == 1
    other = join("bob")
    wait_out_the_lease()

    second = take_over(other)
    other.renew(second)
    wait_out_the_lease()
    third = take_over(queue)

    assert [entry.deliveries for entry in second + third] == [2, 3]
    assert third[0].fields == second[0].fields


def test_a_released_entry_is_there_at_once_and_its_delivery_did_not_count(queue: DocumentQueue, join: Join) -> None:
    add(queue, 2)
    released, kept = queue.read(2, 0)
    other = join("bob")

    queue.release([released])
    taken = take_over(other)

    assert [(entry.entry_id, entry.deliveries) for entry in taken] == [(released.entry_id, 1)]
    assert pending(queue)[kept.entry_id] == "ada"


def test_entries_whose_delivery_was_not_answered_are_handed_back_and_none_else(
    queue: DocumentQueue, join: Join
) -> None:
    other = join("bob")
    add(queue, ENTRIES_PER_SCRIPT + 4)
    lost = queue.read(ENTRIES_PER_SCRIPT + 1, 0)
    kept, *_ = queue.read(1, 0)
    others, *_ = other.read(1, 0)

    assert queue.release_unknown(lambda entry: entry.entry_id == kept.entry_id) == len(lost)

    taken = take_over(other, len(lost) + 2)
    assert [(entry.entry_id, entry.deliveries) for entry in taken] == [(entry.entry_id, 1) for entry in lost]
    assert pending(queue)[kept.entry_id] == "ada"
    assert pending(queue)[others.entry_id] == "bob"
    assert queue.release_unknown(lambda entry: entry.entry_id == kept.entry_id) == 0


def test_releasing_what_another_took_over_changes_nothing(queue: DocumentQueue, join: Join) -> None:
    add(queue)
    entries = queue.read(1, 0)
    other = join("bob")
    wait_out_the_lease()
    take_over(other)

    queue.release(entries)

    assert take_over(queue) == []
    assert set(pending(queue).values()) == {"bob"}


def test_more_entries_than_one_script_takes_are_renewed_and_released(queue: DocumentQueue, join: Join) -> None:
    count = 2 * ENTRIES_PER_SCRIPT + 1
    add(queue, count)
    entries = queue.read(count, 0)
    queue.commit([done(queue, entries[-1])])

    assert queue.renew(entries) == entries[-1:]
    queue.release(entries)

    assert len(take_over(join("bob"), count)) == count - 1


def test_entries_that_somebody_deleted_are_not_pending_for_ever(queue: DocumentQueue, join: Join) -> None:
    add(queue, 2)
    deleted, alive = queue.read(2, 0)
    queue.redis.xdel(queue.keys.normal, deleted.entry_id)
    wait_out_the_lease()

    taken = take_over(join("bob"))

    assert [entry.entry_id for entry in taken] == [alive.entry_id]
    assert pending(queue) == {alive.entry_id: "bob"}


def test_suspects_are_taken_one_by_one_and_only_when_asked_for(queue: DocumentQueue, join: Join) -> None:
    add(queue, 250)
    other = join("bob")
    queue.read(150, 0)
    wait_out_the_lease()
    take_over(other, 150)
    queue.read(100, 0)
    wait_out_the_lease()

    suspect = other.reclaim_suspect()
    innocent, suspects_wait = other.reclaim(1000)
    nothing, suspects_still_wait = other.reclaim(1000)

    assert suspect is not None
    assert suspect.deliveries == 3
    assert [entry.deliveries for entry in innocent] == [2] * 100
    assert suspects_wait
    assert (nothing, suspects_still_wait) == ([], True)


def test_without_suspects_none_waits_and_none_is_taken(queue: DocumentQueue, join: Join) -> None:
    add(queue, 3)
    queue.read(3, 0)
    wait_out_the_lease()
    other = join("bob")

    assert other.reclaim_suspect() is None
    assert other.reclaim(2)[1] is False
    assert len(pending(queue)) == 3


def test_a_worker_that_leaves_takes_its_name_along_unless_something_is_pending(queue: DocumentQueue) -> None:
    add(queue)
    entries = queue.read(1, 0)

    queue.leave()
    assert pending(queue) == {entries[0].entry_id: "ada"}

    queue.commit([done(queue, entries[0])])
    queue.leave()
    assert queue.redis.xinfo_consumers(queue.keys.normal, queue.keys.group) == []


def test_names_of_the_long_dead_are_forgotten_but_not_what_they_held(queue: DocumentQueue, join: Join) -> None:
    add(queue, 2)
    kept = queue.read(1, 0)[0]
    dead = join("dead")
    dead.commit([done(dead, dead.read(1, 0)[0])])
    time.sleep(10.5 * LEASE_SECONDS)

    join("new")

    names = [consumer["name"] for consumer in queue.redis.xinfo_consumers(queue.keys.normal, queue.keys.group)]
    assert names == [b"ada"]
    assert pending(queue) == {kept.entry_id: "ada"}
