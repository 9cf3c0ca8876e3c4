"""Let an iterator work in a thread of its own, a few steps ahead of whoever takes from it."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from queue import Empty, Full, Queue
from typing import Generic, TypeVar

Step = TypeVar("Step")
# So many blocks of documents may lie ready.
BLOCKS_AHEAD = 16
# How often a thread that waits looks whether it is still wanted.
CHECK_SECONDS = 0.1
LONGEST_JOIN_SECONDS = 2.0


class _End(Exception):
    """The iterator is exhausted."""


class Ahead(Generic[Step]):
    """An iterator over what another one gives, computed in a thread. Errors come out where they are taken.

    Args:
        steps: What runs in the thread.
        most: How many steps it may be ahead.
    """

    def __init__(self, steps: Iterator[Step], most: int) -> None:
        self._steps = steps
        self._ready: Queue[Step | Exception] = Queue(maxsize=most)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        step = self._take()
        if isinstance(step, Exception):
            self._closed.set()  # whoever asks again is at the end
            if isinstance(step, _End):
                raise StopIteration
            raise step
        return step

    def stop(self) -> None:
        """Compute no more; what is ready and was not taken yet is dropped."""
        self._closed.set()

    def close(self) -> None:
        """End the thread, unless it hangs in a read that nothing can interrupt; then it ends with the process."""
        self.stop()
        self._thread.join(LONGEST_JOIN_SECONDS)

    def _take(self) -> Step | Exception:
        while not self._closed.is_set():
            with suppress(Empty):
                # With a limit, because a wait without one cannot be interrupted by a signal everywhere.
                return self._ready.get(timeout=CHECK_SECONDS)
        return _End()

    def _run(self) -> None:
        try:
            for step in self._steps:
                if not self._put(step):
                    break
        except Exception as error:  # noqa: BLE001 - it is raised again in the other thread
            self._put(error)
        else:
            self._put(_End())
        finally:
            close = getattr(self._steps, "close", None)
            if close is not None:
                close()

    def _put(self, step: Step | Exception) -> bool:
        while not self._closed.is_set():
            with suppress(Full):
                self._ready.put(step, timeout=CHECK_SECONDS)
                return True
        return False
