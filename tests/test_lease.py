"""The lease: what it lets go of, and what not, while documents are committed and come back beside it."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from gpner.entities import Extraction
from tests.consumers import Join, add, take_over, wait_out_the_lease
from tests.workers import wait_until
from worker.committing import Committer
from worker.held import Held, Holdings
from worker.lease import COMMIT_SECONDS, Lease
from worker.metrics import Metrics
from worker.outcomes import Done
from worker.protocol import Document
from worker.queue import DocumentQueue, Entry, Outcome
from worker.settings import Settings

SECONDS = 10.0


class Observed(DocumentQueue):
    """A queue that counts its renewals, and whose commits are heard of only when `go_on` is set."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, consumer="observed")
        self.renewals = 0
        self.committed, self.go_on = threading.Event(), threading.Event()

    def renew(self, entries: Sequence[Entry]) -> list[Entry]:
        lost = super().renew(entries)
        self.renewals += 1
        return lost

    def commit(self, outcomes: Sequence[Outcome]) -> list[bool]:
        ours = super().commit(outcomes)
        self.committed.set()
        assert self.go_on.wait(SECONDS)
        return ours


class Ended(threading.Event):
    """The end of the lease; something happens in the time that it gives to commits."""

    def __init__(self, happens: Callable[[], object]) -> None:
        super().__init__()
        self._happens = happens

    def wait(self, timeout: float | None = None) -> bool:
        if timeout == COMMIT_SECONDS:
            self._happens()
        return super().wait(timeout)


@pytest.fixture
def observed(settings: Settings, join: Join) -> Iterator[Observed]:
    queue = Observed(settings)
    queue.ensure()
    add(queue)
    yield queue
    queue.close()


def read(queue: DocumentQueue) -> Held:
    (entry,) = queue.read(1, 0)
    return Held(entry, Document.from_fields(entry.fields, queue.keys, 1000), 1, 0.0)


def taken_over_from(observed: Observed, join: Join) -> tuple[Held, Holdings, DocumentQueue]:
    """A document that a worker holds and another has taken over; and that other."""
    held, holdings, other = read(observed), Holdings(1000), join("other")
    holdings.add([held])
    wait_out_the_lease()
    assert take_over(other)
    return held, holdings, other


@contextmanager
def renewing(queue: DocumentQueue, holdings: Holdings, happens: Callable[[], object]) -> Iterator[None]:
    ended = Ended(happens)
    thread = threading.Thread(target=Lease(queue, holdings, 0.03, ended).run)
    thread.start()
    yield
    ended.set()
    thread.join(SECONDS)


def test_a_document_whose_commit_is_not_heard_of_yet_does_not_count_as_taken_over(
    observed: Observed, caplog: pytest.LogCaptureFixture
) -> None:
    held, holdings = read(observed), Holdings(1000)
    holdings.add([held])
    committer = Committer(observed, holdings=holdings, metrics=Metrics(), giving_up=threading.Event())
    committing = threading.Thread(target=committer.run)
    committing.start()
    committer.put([Done(held, Extraction((), 1, 1), "model", "")])
    assert observed.committed.wait(SECONDS)

    def hear_of_it() -> None:
        observed.go_on.set()
        assert holdings.wait_until_empty(SECONDS)

    with renewing(observed, holdings, hear_of_it):
        assert holdings.wait_until_empty(SECONDS)
    observed.go_on.set()
    committer.close()
    committing.join(SECONDS)

    assert "taken over" not in caplog.text


def test_a_document_that_was_taken_over_and_handed_back_at_once_is_held_on(
    observed: Observed, join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    held, holdings, other = taken_over_from(observed, join)

    def hand_back() -> None:
        other.release([held.entry])
        assert take_over(observed)

    with renewing(observed, holdings, hand_back):
        wait_until(lambda: observed.renewals > 2)

    assert held.entry in holdings
    assert "taken over" not in caplog.text


def test_a_document_that_another_worker_took_over_is_let_go(
    observed: Observed, join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    held, holdings, _ = taken_over_from(observed, join)

    with renewing(observed, holdings, lambda: None):
        assert holdings.wait_until_empty(SECONDS)

    assert held.taken_over
    assert "1 documents were taken over by other workers" in caplog.text
