"""The batcher: oldest first, within the budget, and never a device that waits while work is held."""

import threading
import time
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tests.engines import Words
from tests.workers import wait_until
from worker.batcher import CHOICE_PACKS, Batcher
from worker.budget import CLEAN_RUNS, MIN_TOKENS, TokenBudget
from worker.held import Held
from worker.protocol import Document
from worker.queue import Entry


def held_documents(lengths: Sequence[int]) -> list[Held]:
    documents = []
    for number, length in enumerate(lengths):
        entry = Entry("stream", f"{number}-0", {}, 1)
        document = Document(id=str(number), text="")
        documents.append(Held(entry, document, length, 0.0, Words("", length)))
    return documents


def ids(pack: Sequence[Held]) -> list[int]:
    return [int(held.document.id) for held in pack]


def fill(batcher: Batcher, documents: Sequence[Held]) -> None:
    batcher.expect(len(documents))
    batcher.add(documents)


def test_a_lone_document_goes_at_once_when_nothing_else_is_coming() -> None:
    batcher = Batcher(TokenBudget(100), max_wait_seconds=60)

    fill(batcher, held_documents([5]))

    assert ids(batcher.take()) == [0]


def test_a_pack_waits_for_documents_that_are_being_tokenized() -> None:
    batcher = Batcher(TokenBudget(100), max_wait_seconds=60)
    first, second = held_documents([5, 6])
    batcher.expect(2)
    batcher.add([first])

    threading.Timer(0.05, lambda: batcher.add([second])).start()

    assert ids(batcher.take()) == [0, 1]


def test_a_pack_waits_for_more_from_the_queue_but_no_longer_than_it_may() -> None:
    batcher = Batcher(TokenBudget(100), max_wait_seconds=0.05)
    batcher.set_reading(True)
    fill(batcher, held_documents([5]))

    started = time.monotonic()
    pack = batcher.take()

    assert ids(pack) == [0]
    assert time.monotonic() - started >= 0.04


def test_a_full_pack_goes_at_once_whatever_is_coming() -> None:
    batcher = Batcher(TokenBudget(10), max_wait_seconds=60)
    batcher.set_reading(True)

    fill(batcher, held_documents([5, 5, 5]))

    assert ids(batcher.take()) == [0, 1]


def test_a_pack_starts_from_the_oldest_document_and_takes_its_neighbours_in_length() -> None:
    batcher = Batcher(TokenBudget(100), max_wait_seconds=0)

    fill(batcher, held_documents([40, 99, 10, 38, 22]))

    assert [ids(batcher.take()) for _ in range(2)] == [[0, 3, 4], [1]]


def test_a_document_larger_than_the_budget_goes_alone() -> None:
    batcher = Batcher(TokenBudget(10), max_wait_seconds=0)

    fill(batcher, held_documents([500, 1]))

    assert [ids(batcher.take()) for _ in range(2)] == [[0], [1]]


def test_documents_that_shared_a_failed_run_are_the_next_to_go() -> None:
    batcher = Batcher(TokenBudget(10), max_wait_seconds=0)
    returned = held_documents([5, 5])
    newer = held_documents([5, 5, 5, 5])[2:]
    fill(batcher, newer)

    batcher.put_back(returned)

    assert ids(batcher.take()) == [0, 1]


def test_a_pack_is_chosen_among_the_oldest_documents_however_many_wait() -> None:
    batcher = Batcher(TokenBudget(10), max_wait_seconds=0)
    lengths = [5, *[10] * CHOICE_PACKS, 5]

    fill(batcher, held_documents(lengths))

    # The last one would fit, but the device would wait for the choice if all that wait were looked at each time.
    assert [ids(batcher.take()) for _ in lengths[1:]] == [[number] for number in range(len(lengths) - 1)]


def test_the_next_pack_is_made_ready_while_the_device_computes() -> None:
    batcher = Batcher(TokenBudget(10), max_wait_seconds=60)
    preparing = threading.Thread(target=batcher.prepare_until_closed)
    preparing.start()
    batcher.set_reading(True)

    documents = held_documents([4, 6, 9, 4])

    fill(batcher, documents[:3])
    wait_until(lambda: bool(batcher._prepared))
    fill(batcher, documents[3:])

    # Chosen only now, the pack would hold the two documents of equal length.
    assert ids(batcher.take()) == [0, 1]
    batcher.close()
    preparing.join(5)
    assert not preparing.is_alive()


def test_a_closed_batcher_gives_nothing_and_lets_nobody_wait() -> None:
    batcher = Batcher(TokenBudget(10), max_wait_seconds=60)
    threading.Timer(0.05, batcher.close).start()

    assert batcher.take() == []


@given(
    st.lists(st.lists(st.integers(0, 40), max_size=8), max_size=6),
    st.integers(1, 60),
    st.lists(st.booleans(), max_size=99),
)
def test_every_document_leaves_once_and_no_pack_breaks_the_budget(
    groups: list[list[int]], budget: int, returned: list[bool]
) -> None:
    batcher = Batcher(TokenBudget(budget), max_wait_seconds=0)
    documents = held_documents([length for group in groups for length in group])
    waiting = list(documents)
    for group in groups:
        fill(batcher, waiting[: len(group)])
        waiting = waiting[len(group) :]

    left: list[int] = []
    order = list(range(len(documents)))
    while order:
        pack = batcher.take()
        assert ids(pack)[0] == order[0]
        assert len(pack) == 1 or sum(held.n_window_tokens for held in pack) <= budget
        again = pack[1:] if returned and returned.pop() else []
        batcher.put_back(again)
        left += ids(pack)[: len(pack) - len(again)]
        order = ids(again) + [number for number in order if number not in ids(pack)]

    assert sorted(left) == list(range(len(documents)))


def test_the_budget_halves_when_memory_runs_out_and_recovers_slowly() -> None:
    budget = TokenBudget(4096)

    assert budget.shrink(4000)
    assert budget.tokens == 2000
    for _ in range(CLEAN_RUNS - 1):
        budget.record_clean_run()
    assert budget.tokens == 2000
    for _ in range(20 * CLEAN_RUNS):
        budget.record_clean_run()

    assert budget.tokens == 4096


def test_the_budget_has_a_floor() -> None:
    budget = TokenBudget(MIN_TOKENS + 1)

    assert budget.shrink(MIN_TOKENS + 1)
    assert not budget.shrink(MIN_TOKENS)

    assert budget.tokens == MIN_TOKENS
    assert not TokenBudget(100).shrink(100)


def test_an_interrupted_wait_ends_once_and_loses_no_document() -> None:
    batcher = Batcher(TokenBudget(100), max_wait_seconds=60)
    batcher.set_reading(True)
    fill(batcher, held_documents([5]))

    threading.Timer(0.05, batcher.interrupt).start()
    interrupted = batcher.take()
    batcher.set_reading(False)

    assert interrupted == []
    assert ids(batcher.take()) == [0]
