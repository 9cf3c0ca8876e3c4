"""What a signal does while no documents are under way: the process ends at once, and the same command goes on."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

# The exit code of a command that was stopped, and goes on when it is given again.
STOPPED = 3
STANDARD_ERROR = 2
STOPPING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def leaving_at_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM end this process with the exit code of a stop, as safely as a `kill -9` would.

    A model that is being loaded, or a table that is being opened, could turn an exception into anything.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        with suppress(OSError):  # nobody may read it
            os.write(STANDARD_ERROR, f"stopped by {signal.Signals(number).name}; the same command goes on\n".encode())
        os._exit(STOPPED)

    before = {number: signal.signal(number, leave) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
