"""How much of a job over the queue is in flight, by documents, characters and answers; and how many workers it sees."""

from collections.abc import Iterator
from itertools import islice

import pytest

from tests.consumers import Join
from worker.bulk.over_queue import OverQueue
from worker.bulk.room import Room
from worker.bulk.rows import Block, Position, Row
from worker.presence import Report
from worker.protocol import Keys


def some(documents: int, size: int = 10) -> Iterator[Row]:
    return (Row(str(number), f"TEXT {number}", "corpus", number, size=size) for number in range(documents))


def filled(room: Room, rows: Iterator[Row], now: float = 0.0) -> int:
    """How many documents it takes until none is left room for."""
    taken = 0
    while room.is_left(now):
        room.take(next(rows))
        taken += 1
    return taken


@pytest.mark.integration
def test_while_nothing_is_answered_512_documents_are_on_the_stream_and_no_more(settings, redis):
    blocks = iter([Block([row], Position(), {}, 0, full=False) for row in some(1_000)])
    over_queue = OverQueue(settings, "job", lambda name, revision: None)

    # A step takes one block; those without room for one wait for answers.
    steps = list(islice(over_queue.answers(blocks, ""), 514))

    assert steps == [None] * 514, "nothing is answered"
    assert redis.xlen(Keys("test:").bulk) == 512
    assert len(list(blocks)) == 1_000 - 512, "no more of the input is held than is in flight"
    over_queue.close()


@pytest.mark.integration
def test_workers_are_counted_by_what_they_say(settings, join: Join):
    report = Report(state="reading", device="cpu", batch_tokens=1, tokens_held=0, documents_ended=0)
    for name in ("ada", "bob"):
        join(name).announce(report.model_dump_json())
    over_queue = OverQueue(settings, "job", lambda name, revision: None)
    assert over_queue.workers is None, "nobody has asked yet"

    next(over_queue.answers(iter([Block(list(some(1)), Position(), {}, 0, full=False)]), ""))

    assert over_queue.workers == 2
    over_queue.close()


@pytest.mark.parametrize(("answers", "documents"), [(0, 512), (512, 512), (3_000, 3_000), (20_000, 16_384)])
def test_as_many_documents_are_in_flight_as_were_answered_of_late_within_limits(answers, documents):
    room = Room()
    for _ in range(answers):
        room.note_answer(0.0)

    assert filled(room, some(20_000)) == documents


def test_answers_count_for_ten_seconds():
    room = Room()
    for number in range(4_000):
        room.note_answer(0.0 if number < 3_000 else 9.0)

    assert filled(room, some(20_000), now=10.0) == 4_000
    for each in some(4_000):
        room.give_back(each)
    assert filled(room, some(20_000), now=10.1) == 1_000


def test_no_more_than_128_million_characters_are_in_flight_and_what_is_written_down_makes_room():
    room = Room()
    (large,) = some(1, size=1_000_000)

    assert filled(room, some(512, size=1_000_000)) == 128

    room.give_back(large)
    assert filled(room, some(512, size=1_000_000)) == 1
