"""The gate between the queue and the intake: closed as long as anybody has a reason for reading no more.

Each reason is kept apart, so that the end of a reload does not end an operator's pause.
"""

import threading
from typing import Literal

Reason = Literal["paused", "reloading", "draining"]


class Gate:
    """Open unless there is a reason against it. One thread passes through it; any may close and open it."""

    def __init__(self) -> None:
        self._reasons: set[Reason] = set()
        self._someone_reads = False
        self._changed = threading.Condition()

    def close(self, reason: Reason) -> None:
        """Let nobody read for this reason; what is being read at this moment still comes."""
        with self._changed:
            self._reasons.add(reason)

    def open(self, reason: Reason) -> None:
        """Take a reason back."""
        with self._changed:
            self._reasons.discard(reason)
            self._changed.notify_all()

    def closed_for(self, reason: Reason) -> bool:
        """Whether this is among the reasons."""
        return reason in self._reasons

    def pass_through(self, timeout_seconds: float) -> bool:
        """Return whether the gate is or becomes open in time. Whoever gets True may read until it comes back here."""
        with self._changed:
            self._someone_reads = False
            self._changed.notify_all()
            self._someone_reads = self._changed.wait_for(lambda: not self._reasons, timeout_seconds)
            return self._someone_reads

    def wait_until_nobody_reads(self, timeout_seconds: float) -> bool:
        """Return whether the reader has come back to the gate. Close it before, or it means nothing."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._someone_reads, timeout_seconds)
