"""The pump: the threads that carry documents from the queue through the model and back, and their orderly end.

    gate -> intake -> tokenizers -> batcher -> forward -> committer        and the lease beside them

Each stage works while the others do: during a forward the next pack is made ready and the last one is committed. What
is held between reading and committing is bounded in tokens. One thread alone touches the device. Behind the closed gate
what is held comes to its end: that is a pause, the beginning of a drain, and the time in which a model is exchanged.
"""

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from gpner.errors import ServiceError
from worker.batcher import Batcher
from worker.budget import ORDINARY_TOKENS, TokenBudget
from worker.committing import Committer
from worker.engine import Engine
from worker.gate import Gate
from worker.health import HealthServer
from worker.held import Holdings, TokenEstimate
from worker.intake import BLOCK_SECONDS, Intake
from worker.lease import Lease
from worker.metrics import Metrics
from worker.presence import READING, Presence, Report
from worker.queue import DocumentQueue
from worker.serving import Serving
from worker.settings import Settings
from worker.tokenizing import Tokenizers
from worker.watch import Watch

logger = logging.getLogger(__name__)

# How long a read may be under way when reading shall stop. Waited for in any case: what it brings must be handed back.
READ_SECONDS = 2 * BLOCK_SECONDS
# How often those who wait for the end of what is held look whether the worker stops meanwhile.
CHECK_SECONDS = 0.5
# Batches that a worker holds: one runs, one is ready, and two are on their way in and out.
HELD_BATCHES = 4
# How long the last report to `gpner-worker status` may keep the end of the process waiting.
PRESENCE_SECONDS = 1.0


class Pump:
    """Everything one worker process does with documents.

    Args:
        settings: The deployment's settings.
        load: Loads the model; called in the forward thread, so that health answers meanwhile.
        device: What the log and the metrics call the device.

    Raises:
        ServiceError: If the port for metrics is taken.
    """

    def __init__(self, settings: Settings, load: Callable[[Settings], Engine], *, device: str) -> None:
        self._settings = settings
        self._device = device
        self.consumer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._queue = DocumentQueue(settings, consumer=self.consumer)
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._warm = threading.Event()
        self._gate = Gate()
        self._changing_state = threading.Lock()
        batch_tokens = settings.max_batch_tokens or ORDINARY_TOKENS  # until the model is loaded
        self._budget = TokenBudget(batch_tokens)
        self._holdings = Holdings(settings.max_held_tokens or HELD_BATCHES * batch_tokens)
        self._batcher = Batcher(self._budget, settings.max_wait_seconds)
        self._metrics = Metrics()
        self._watch = Watch(
            settings.forward_deadline_seconds,
            batch_tokens,
            holds_documents=lambda: len(self._holdings) > 0,
            waits_for_redis=lambda: self._committer.waits_for_redis,
        )
        self._committer = Committer(self._queue, holdings=self._holdings, metrics=self._metrics, giving_up=self._ended)
        self._serving = Serving(
            settings,
            load,
            device=device,
            batcher=self._batcher,
            budget=self._budget,
            watch=self._watch,
            metrics=self._metrics,
            finish=self._committer.put,
            resize=self._resize,
            warm=self._start_feeding,
        )
        self._lease = Lease(self._queue, self._holdings, settings.lease_seconds, self._ended)
        self._commit_thread = self._watch.thread("commit", self._committer.run)
        self._other_threads = [
            self._watch.thread("forward", self._serving.run),
            self._watch.thread("batch", self._batcher.prepare_until_closed),
            self._watch.thread("lease", self._lease.run),
        ]
        presence = Presence(self._queue, self._report, self._ended)
        self._presence_thread = self._watch.thread("presence", presence.run)
        self._intake_thread: threading.Thread | None = None  # there is nothing to read for before the model is warm
        self._starting_or_stopping = threading.Lock()
        self._metrics.measure_worker(
            in_flight=lambda: len(self._holdings),
            max_batch_tokens=lambda: self._budget.tokens,
        )
        self._metrics.measure_queue(self._queue, reading=lambda: self.state == READING)
        self.health = HealthServer(
            settings.metrics_host,
            settings.metrics_port,
            registry=self._metrics.registry,
            alive=self._watch.standing_still,
            ready=self.not_ready,
        )

    def start(self) -> None:
        """Start all threads. Reading begins when the model is warm."""
        logger.info(
            "consumer %s on %s; metrics and health at http://%s:%d/metrics",
            self.consumer, self._device, self._settings.metrics_host, self.health.port,
        )  # fmt: skip
        self._watch.start()
        for thread in (self._commit_thread, self._presence_thread, *self._other_threads):
            thread.start()

    def stop(self) -> None:
        """Read no more, finish and commit what is held within `drain_seconds`, hand the rest back, leave the queue."""
        self._drain(self._settings.drain_seconds)

    def terminate(self) -> None:
        """Hand back at once what is held."""
        self._drain(0.0)

    def pause(self) -> None:
        """Read no more until `resume`; what is held is finished and committed."""
        self._gate.close("paused")

    def resume(self) -> None:
        """End a pause."""
        self._gate.open("paused")

    def drain(self, then: Callable[[], None]) -> None:
        """Begin to finish all that is held, however long it takes, and call `then` after it."""
        self._gate.close("draining")

        def finish() -> None:
            self._wait_until_nothing_is_held()
            then()

        self._watch.thread("drain", finish).start()

    def reload(self, path: str | None = None) -> None:
        """Begin to exchange the model for another: read no more, finish what is held, load, read again.

        `info` says how it goes. If the new model does not load, the old one goes on.

        Args:
            path: The folder of the checkpoint; by default the one that the settings name, as at a restart.

        Raises:
            ServiceError: If the worker is loading, reloading or draining.
        """
        with self._changing_state:
            if self.state not in ("reading", "paused"):
                raise ServiceError(
                    f"a worker must be reading or paused to reload its model, this one is {self.state}; "
                    "wait until that is over"
                )
            self._gate.close("reloading")

        def exchange() -> None:
            if self._wait_until_nothing_is_held():
                self._serving.change_model(self._settings.model if path is None else path)
            self._gate.open("reloading")

        self._watch.thread("reload", exchange).start()

    @property
    def state(self) -> str:
        """What the worker does: loading, reading, paused, reloading or draining."""
        if self._stopping.is_set() or self._gate.closed_for("draining"):
            return "draining"
        if not self._warm.is_set():
            return "loading"
        if self._gate.closed_for("reloading"):
            return "reloading"
        return "paused" if self._gate.closed_for("paused") else "reading"

    def not_ready(self) -> str | None:
        """Say why no documents are taken; None if they are."""
        if self.state != READING:
            return "the model is loading" if self.state == "loading" else self.state
        try:
            self._queue.ping()
        except ServiceError as error:
            return str(error)
        return None

    def info(self) -> dict[str, Any]:
        """Say what the worker does, for `celery inspect held` and `celery inspect stats`."""
        held = self._holdings.documents()
        return {
            "consumer": self.consumer,
            "state": self.state,
            "device": self._device,
            **self._serving.describe(),
            "documents_held": len(held),
            "tokens_held": self._holdings.tokens,
            "oldest_held_seconds": round(time.time() - held[0].read_seconds, 3) if held else 0.0,
            "batch_tokens": self._budget.tokens,
            "metrics_port": self.health.port,
        }

    def _report(self) -> Report:
        model = self._serving.describe()
        return Report(
            state=self.state,
            device=self._device,
            model=model["model"],
            revision=model["revision"],
            batch_tokens=self._budget.tokens,
            tokens_held=self._holdings.tokens,
            documents_ended=self._committer.ended,
        )

    def _resize(self, batch_tokens: int) -> None:
        """Have batches hold so many tokens; nothing is held meanwhile."""
        held_tokens = self._settings.max_held_tokens or HELD_BATCHES * batch_tokens
        batch_tokens = min(batch_tokens, held_tokens)
        self._budget.start_again(batch_tokens)
        self._holdings.max_tokens = held_tokens
        self._watch.pack_tokens = batch_tokens

    def _start_feeding(self) -> None:
        estimate = TokenEstimate()
        tokenizers = Tokenizers(
            lambda: self._serving.engine,
            holdings=self._holdings,
            batcher=self._batcher,
            estimate=estimate,
            watch=self._watch,
            metrics=self._metrics,
            finish=self._committer.put,
        )
        intake = Intake(
            self._settings,
            self._queue,
            current_labels=lambda: self._serving.engine.labels,
            holdings=self._holdings,
            budget=self._budget,
            batcher=self._batcher,
            estimate=estimate,
            metrics=self._metrics,
            tokenize=tokenizers.put,
            finish=self._committer.put,
            wait_until_committed=self._committer.wait_until_committed,
            renewing_since=lambda: self._lease.unbroken_since,
            gate=self._gate,
            watch=self._watch,
            stopping=self._stopping,
        )
        for number in range(self._settings.tokenizer_threads):
            self._watch.thread(f"tokenize-{number}", tokenizers.run).start()
        with self._starting_or_stopping:
            if not self._stopping.is_set():
                self._intake_thread = self._watch.thread("intake", intake.run)
                self._intake_thread.start()
        self._warm.set()

    def _wait_until_nothing_is_held(self) -> bool:
        """Once the gate is closed: return whether all that is held came to its end, False if the worker stops first."""
        while not self._stopping.is_set():
            if self._gate.wait_until_nobody_reads(CHECK_SECONDS) and self._holdings.wait_until_empty(CHECK_SECONDS):
                return True
        return False

    def _drain(self, seconds: float) -> None:
        if self._stopping.is_set():
            return
        logger.info("draining %d documents for at most %g s", len(self._holdings), seconds)
        deadline = time.monotonic() + seconds
        with self._starting_or_stopping:
            self._stopping.set()
        _join(self._intake_thread, max(deadline, time.monotonic() + READ_SECONDS))
        self._holdings.wait_until_empty(deadline - time.monotonic())
        self._batcher.close()
        self._committer.close()
        _join(self._commit_thread, deadline)
        self._ended.set()
        self._watch.close()
        _join(self._presence_thread, time.monotonic() + PRESENCE_SECONDS)
        self._leave()
        self.health.close()

    def _leave(self) -> None:
        """Hand back what could not be finished; what Redis cannot be told now, the lease tells it later."""
        rest = [held.entry for held in self._holdings.documents()]
        try:
            self._queue.release(rest)
            self._queue.leave()
        except ServiceError as error:
            logger.warning("%d documents stay pending until the lease ends: %s", len(rest), error)
        else:
            logger.info("drained; %d documents handed back", len(rest))
        self._queue.close()


def _join(thread: threading.Thread | None, deadline: float) -> None:
    if thread is not None:
        thread.join(max(0.0, deadline - time.monotonic()))
