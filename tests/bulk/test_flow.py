"""Blocks on their way from the input to the output, and what a stop leaves of it."""

from collections.abc import Iterator
from threading import Event

from worker.bulk.flow import Flow
from worker.bulk.local import Local
from worker.bulk.rows import Block, Position, Row
from worker.bulk.show import Display
from worker.bulk.without_job import StandardOutput
from worker.settings import load_settings


def test_a_stop_closes_the_input():
    closed = Event()
    flow = Flow(Display(None, total_bytes=0, failures=0), strict=False, most_failures=None)

    def without_end() -> Iterator[Block]:
        try:
            while True:
                yield Block([Row("a", "TEXT", "input", 1)], Position(), {}, 0, full=False)
                flow.stop("enough")
        finally:
            closed.set()

    blocks = without_end()
    flow.run(blocks, Local(load_settings()), StandardOutput())

    assert flow.stopped == "enough"
    assert closed.is_set()
