"""The lease: tells Redis every so often that the documents held here are still being worked on.

It runs in a thread of its own, so that neither a long forward nor a slow commit makes the worker look dead.
"""

import logging
import threading
import time

from gpner.errors import ServiceError
from worker.held import Holdings
from worker.outage import Outage
from worker.queue import DocumentQueue

logger = logging.getLogger(__name__)

# Longer than a commit takes from Redis' doing it to our noticing.
COMMIT_SECONDS = 0.5


class Lease:
    """Renews one worker's claims, in one thread.

    Args:
        queue: Where the claims are.
        holdings: What is held; what was taken over by others leaves it.
        lease_seconds: After this time without renewal others may take over. Renewed three times as often.
        ended: Ends the renewing.

    Attributes:
        unbroken_since: Since when no renewal has failed, on the monotonic clock; infinity while they fail.
    """

    def __init__(self, queue: DocumentQueue, holdings: Holdings, lease_seconds: float, ended: threading.Event) -> None:
        self._queue = queue
        self._holdings = holdings
        self._pause_seconds = lease_seconds / 3
        self._ended = ended
        self._outage = Outage("renewing the lease", ended)
        self.unbroken_since = float("-inf")

    def run(self) -> None:
        """Renew until `ended` is set."""
        while not self._ended.wait(self._pause_seconds):
            while not self._renew() and not self._ended.is_set():
                pass

    def _renew(self) -> bool:
        entries = [held.entry for held in self._holdings.documents()]
        try:
            taken_over = self._queue.renew(entries) if entries else []
            if taken_over:
                # By then a commit of a moment ago let them go by itself, and what was handed back may be here again.
                self._ended.wait(COMMIT_SECONDS)
                taken_over = self._queue.renew(taken_over)
        except ServiceError as error:
            self.unbroken_since = float("inf")
            self._outage.wait(error)
            return False
        if self._outage.lasts:
            self.unbroken_since = time.monotonic()
        self._outage.end()
        if lost := self._holdings.remove(taken_over):
            logger.warning("%d documents were taken over by other workers while this one was silent", len(lost))
        return True
