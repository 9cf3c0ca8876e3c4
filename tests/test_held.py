"""What a worker holds, and the bound on it."""

import threading

from tests.test_batcher import held_documents
from worker.held import DOCUMENT_TOKENS, Held, Holdings, TokenEstimate
from worker.queue import Entry


def documents_of(tokens: int, count: int) -> list[Held]:
    return held_documents([tokens] * count)


def test_there_is_room_until_the_bound_is_reached_and_again_after_a_commit() -> None:
    holdings = Holdings(100)
    documents = documents_of(60, 2)

    assert holdings.wait_for_room(0) == 100
    holdings.add(documents[:1])
    assert holdings.wait_for_room(0) == 40
    holdings.add(documents[1:])
    assert holdings.wait_for_room(0.01) == 0
    threading.Timer(0.02, lambda: holdings.remove([documents[0].entry])).start()

    assert holdings.wait_for_room(5) == 40
    assert holdings.tokens == 60


def test_one_document_larger_than_the_bound_is_held_alone() -> None:
    holdings = Holdings(100)
    (huge,) = documents_of(5_000, 1)

    assert holdings.wait_for_room(0) > 0
    holdings.add([huge])
    assert holdings.wait_for_room(0) == 0
    holdings.remove([huge.entry])

    assert holdings.wait_for_room(0) == 100
    assert len(holdings) == 0


def test_measuring_replaces_the_estimate() -> None:
    holdings = Holdings(1000)
    (held,) = documents_of(30, 1)
    held.tokens = 500
    holdings.add([held])

    holdings.measure([held])

    assert holdings.tokens == held.tokens == 30 + DOCUMENT_TOKENS


def test_measuring_a_document_that_was_let_go_meanwhile_changes_nothing() -> None:
    holdings = Holdings(1000)
    (held,) = documents_of(30, 1)
    holdings.add([held])
    holdings.remove([held.entry])

    holdings.measure([held])

    assert holdings.tokens == 0


def test_entries_that_are_not_held_are_passed_over() -> None:
    holdings = Holdings(100)
    (held,) = documents_of(10, 1)
    holdings.add([held])
    stranger = Entry("other", "0-0", {}, 1)

    assert holdings.remove([stranger, held.entry, held.entry]) == [held]
    assert held.entry not in holdings


def test_waiting_for_the_end_ends_with_the_last_document() -> None:
    holdings = Holdings(100)
    documents = documents_of(10, 3)
    holdings.add(documents)

    assert not holdings.wait_until_empty(0.01)
    threading.Timer(0.02, lambda: holdings.remove([held.entry for held in documents])).start()

    assert holdings.wait_until_empty(5)


def test_the_estimate_learns_a_language_with_one_token_per_character() -> None:
    estimate = TokenEstimate()
    english = estimate.guess(1000)

    for _ in range(30):
        estimate.learn(1000, 1000)

    assert english == 250 + DOCUMENT_TOKENS
    assert abs(estimate.guess(1000) - 1000 - DOCUMENT_TOKENS) < 10


def test_a_document_that_comes_back_while_its_first_reading_is_tokenized_counts_once() -> None:
    holdings = Holdings(1000)
    (first,), (second,) = documents_of(30, 1), documents_of(30, 1)
    first.tokens = second.tokens = 500
    holdings.add([first])
    holdings.remove([first.entry])
    holdings.add([second])

    holdings.measure([first])
    holdings.measure([second])

    assert holdings.tokens == 30 + DOCUMENT_TOKENS
    holdings.remove([second.entry])
    assert holdings.tokens == 0


def test_a_document_that_is_let_go_is_marked_so_that_it_is_not_run() -> None:
    holdings = Holdings(1000)
    (first,), (second,) = documents_of(30, 1), documents_of(30, 1)
    holdings.add([first])
    holdings.remove([first.entry])
    holdings.add([second])
    before = first.taken_over, second.taken_over

    holdings.remove([first.entry])

    assert before == (True, False)
    assert second.taken_over
