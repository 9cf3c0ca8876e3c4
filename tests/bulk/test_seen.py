"""The table of ids, between the thread that reads and the one that ends the job."""

import sqlite3
import threading
from pathlib import Path

from tests.bulk_tools import PROCESSES
from worker.bulk.seen import SeenIds

IDS = 5_000


def close_under_a_reader(file: Path) -> None:
    """Close a table while a thread notes ids; returns once that has ended with an error."""
    seen = SeenIds(file)
    reading = threading.Event()
    errors: list[Exception] = []

    def read() -> None:
        first = 0
        try:
            while True:
                seen.add([str(number) for number in range(first, first + IDS)], range(first, first + IDS))
                first += IDS
                reading.set()
        except sqlite3.ProgrammingError as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    reading.wait()
    seen.close()
    thread.join()
    assert len(errors) == 1


def close_many(folder: Path) -> None:
    for number in range(10):
        close_under_a_reader(folder / f"{number}.sqlite")


def test_a_thread_that_still_reads_when_the_job_ends_does_not_take_the_process_with_it(tmp_path):
    process = PROCESSES.Process(target=close_many, args=(tmp_path,))  # what fails here is a segmentation fault

    process.start()
    process.join(60)

    assert process.exitcode == 0
