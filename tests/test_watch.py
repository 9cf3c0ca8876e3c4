"""A worker never stands still silently: what counts as standing still, and what is seen of it from outside."""

import threading
from contextlib import suppress
from http.client import IncompleteRead
from pathlib import Path

import pytest
from redis import Redis

from tests.workers import WorkerProcess
from worker.protocol import Keys
from worker.settings import Settings
from worker.watch import LOADING_PACKS, PATIENCE_SECONDS, Watch

KEYS = Keys("test:")
DEADLINE = 100.0


class World:
    """A watch with all that it looks at: a clock, documents, Redis."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.holds_documents = False
        self.waits_for_redis = False
        self.watch = Watch(
            DEADLINE,
            500,
            holds_documents=lambda: self.holds_documents,
            waits_for_redis=lambda: self.waits_for_redis,
            clock=lambda: self.now,
        )

    def standing_still_after(self, seconds: float) -> str | None:
        """What `/livez` says if it is asked now, and again after that time."""
        self.watch.standing_still()
        self.now += seconds
        return self.watch.standing_still()


@pytest.fixture
def world() -> World:
    return World()


def test_a_forward_is_seen_to_stand_still_before_its_deadline(world: World) -> None:
    with world.watch.forward(3, 500):
        assert world.standing_still_after(0.7 * DEADLINE) is None
        assert world.standing_still_after(0.1 * DEADLINE) == (
            "a forward of 3 documents, 500 tokens, has lasted 80.0 s; the process ends after 100 s of it"
        )
    assert world.watch.standing_still() is None


def test_a_document_of_many_packs_has_the_time_of_many(world: World) -> None:
    with world.watch.forward(1, 5000):
        assert world.standing_still_after(7 * DEADLINE) is None
        assert world.standing_still_after(DEADLINE)
    with world.watch.tokenizing(1, 5000):
        assert world.standing_still_after(7 * DEADLINE) is None
        assert world.standing_still_after(DEADLINE)


def test_loading_a_model_may_take_several_deadlines(world: World) -> None:
    with world.watch.loading():
        assert world.standing_still_after(0.7 * LOADING_PACKS * DEADLINE) is None
        assert "loading the model has lasted" in str(world.standing_still_after(0.1 * LOADING_PACKS * DEADLINE))


def test_held_documents_that_nothing_is_done_with_are_a_standstill(world: World) -> None:
    patience = DEADLINE + PATIENCE_SECONDS
    world.holds_documents = True
    assert world.standing_still_after(0.7 * patience) is None
    assert "holding documents that nothing is done with" in str(world.standing_still_after(0.1 * patience))

    with world.watch.forward(1, 1):
        pass

    assert world.standing_still_after(0.7 * patience) is None


def test_an_idle_worker_and_one_that_waits_for_redis_do_not_stand_still(world: World) -> None:
    world.watch.came_round()
    world.waits_for_redis = world.holds_documents = True
    assert world.standing_still_after(1000 * DEADLINE) is None

    world.waits_for_redis = False
    assert world.standing_still_after(DEADLINE) is None

    world.holds_documents = False
    world.watch.came_round()
    assert world.standing_still_after(DEADLINE) is None


def test_an_intake_that_does_not_come_round_is_a_standstill_unless_its_time_is_over(world: World) -> None:
    world.watch.came_round()
    assert "not looking for documents" in str(world.standing_still_after(DEADLINE + PATIENCE_SECONDS))

    world.watch.stopped_reading()

    assert world.standing_still_after(1000 * DEADLINE) is None


def test_the_last_word_of_the_intake_is_not_lost_while_the_watch_is_asked() -> None:
    now, waited = 1000.0, []

    def waits_for_redis() -> bool:
        if not waited:
            last_word.start()
            last_word.join(0.1)
            waited.append(last_word.is_alive())
        return now == 1000.0

    watch = Watch(DEADLINE, 500, holds_documents=lambda: False, waits_for_redis=waits_for_redis, clock=lambda: now)
    last_word = threading.Thread(target=watch.stopped_reading)
    watch.came_round()
    watch.standing_still()
    last_word.join(10)
    now += 1000 * DEADLINE

    assert watch.standing_still() is None
    assert waited == [True]


def livez_at_the_end(worker: WorkerProcess) -> tuple[int, str]:
    """What `/livez` said last before it failed for good."""
    said = (0, "")
    while worker.ended() is None:
        with suppress(IncompleteRead):  # the process may end in the middle of an answer
            said = max(said, worker.get("/livez"))
    return said


@pytest.mark.integration
@pytest.mark.parametrize(
    ("order", "what"), [("!hang", "a forward of 1 documents, 2 tokens,"), ("!stall", "tokenizing 1 documents")]
)
def test_livez_says_what_hangs_before_the_process_ends_and_the_document_stays(
    settings: Settings, store: Redis, tmp_path: Path, order: str, what: str
) -> None:
    with WorkerProcess(settings, "load_capitals", tmp_path / "log", forward_deadline_seconds=3) as worker:
        worker.wait_until_ready()
        before = worker.get("/livez")
        store.xadd(KEYS.normal, {"id": "1", "text": f"please {order}"})

        status, said = livez_at_the_end(worker)
        code = worker.wait()

    assert before == (200, "ok\n")
    assert status == 503
    assert said.startswith(what)
    # Which of the two is seen last is a matter of milliseconds.
    assert said.endswith(("the process ends after 3 s of it\n", "other workers will take its documents over\n"))
    assert code == 70
    assert f"{what} is past its deadline of 3 s" in worker.log.read_text()
    assert store.xpending(KEYS.normal, KEYS.group)["pending"] == 1


@pytest.mark.integration
def test_a_model_that_never_gets_warm_ends_the_process(settings: Settings, store: Redis, tmp_path: Path) -> None:
    options = {"forward_deadline_seconds": 0.5}
    with WorkerProcess(settings, "load_never_warm", tmp_path / "log", **options) as worker:
        status, said = livez_at_the_end(worker)

        assert worker.wait() == 70
    assert status == 503
    assert said.startswith(("loading the model has lasted", "loading the model is past its deadline"))
