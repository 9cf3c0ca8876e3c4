"""What Ctrl-C and SIGTERM do: for a time, whatever the part of the command that runs has them do."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from worker.bulk.exit_codes import STOPPED

STANDARD_ERROR = 2


@contextmanager
def handling_signals(handle: Callable[[str], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM call the function, with the signal's name."""

    def handler(number: int, frame: FrameType | None) -> None:
        handle(signal.Signals(number).name)

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def leave(next_step: str, name: str) -> NoReturn:
    """End this process with the exit code of a stop, as safely as a `kill -9` would.

    For while no documents are under way: a model that is being loaded, or a table that is being opened, could turn an
    exception into anything.

    Args:
        next_step: What the user is told besides.
        name: The signal's.
    """
    with suppress(OSError):  # nobody may read it
        os.write(STANDARD_ERROR, f"stopped by {name}{next_step}\n".encode())
    os._exit(STOPPED)
