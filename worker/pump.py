"""The pump: the threads that carry documents from the queue through the model and back, and their orderly end.

    intake -> tokenizers -> batcher -> forward -> committer        and the lease beside them

Each stage works while the others do: during a forward the next pack is made ready and the last one is committed. What
is held between reading and committing is bounded in tokens. One thread alone touches the device.
"""

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from gpner.errors import GpnerError, ServiceError
from worker.batcher import Batcher
from worker.budget import TokenBudget
from worker.committing import Committer
from worker.engine import Engine
from worker.forwarding import Forwarder
from worker.health import HealthServer
from worker.held import Holdings, TokenEstimate
from worker.intake import BLOCK_SECONDS, Intake
from worker.lease import Lease
from worker.metrics import Metrics
from worker.queue import DocumentQueue
from worker.settings import Settings
from worker.tokenizing import Tokenizers
from worker.watch import Watch

logger = logging.getLogger(__name__)

CANNOT_START = 2
# How long a read may be under way when reading shall stop. Waited for in any case: what it brings must be handed back.
READ_SECONDS = 2 * BLOCK_SECONDS


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
        self._load = load
        self._device = device
        self.consumer = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(2)}"
        self._queue = DocumentQueue(settings, consumer=self.consumer)
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._warm = threading.Event()
        self._budget = TokenBudget(settings.max_batch_tokens)
        self._holdings = Holdings(settings.max_held_tokens)
        self._batcher = Batcher(self._budget, settings.max_wait_seconds)
        self._metrics = Metrics()
        self._watch = Watch(settings.forward_deadline_seconds, settings.max_batch_tokens)
        self._committer = Committer(self._queue, holdings=self._holdings, metrics=self._metrics, giving_up=self._ended)
        lease = Lease(self._queue, self._holdings, settings.lease_seconds, self._ended)
        self._commit_thread = self._watch.thread("commit", self._committer.run)
        self._other_threads = [
            self._watch.thread("forward", self._forward),
            self._watch.thread("batch", self._batcher.prepare_until_closed),
            self._watch.thread("lease", lease.run),
        ]
        self._intake_thread: threading.Thread | None = None  # there is nothing to read for before the model is warm
        self._starting_or_stopping = threading.Lock()
        self._metrics.measure_worker(in_flight=lambda: len(self._holdings), ready=lambda: not self.not_ready())
        self._metrics.measure_queue(self._queue)
        self.health = HealthServer(
            settings.metrics_host,
            settings.metrics_port,
            registry=self._metrics.registry,
            alive=lambda: self._watch.problem,
            ready=self.not_ready,
        )

    def start(self) -> None:
        """Start all threads. Reading begins when the model is warm."""
        logger.info(
            "consumer %s on %s; metrics and health at http://%s:%d/metrics",
            self.consumer, self._device, self._settings.metrics_host, self.health.port,
        )  # fmt: skip
        self._watch.start()
        for thread in (self._commit_thread, *self._other_threads):
            thread.start()

    def stop(self) -> None:
        """Read no more, finish and commit what is held within `drain_seconds`, hand the rest back, leave the queue."""
        self._drain(self._settings.drain_seconds)

    def terminate(self) -> None:
        """Hand back at once what is held."""
        self._drain(0.0)

    def not_ready(self) -> str | None:
        """Say why no documents are taken; None if they are."""
        if self._stopping.is_set():
            return "draining"
        if not self._warm.is_set():
            return "the model is loading"
        try:
            self._queue.ping()
        except ServiceError as error:
            return str(error)
        return None

    def info(self) -> dict[str, Any]:
        """Say what the worker does, for `celery inspect stats`."""
        return {
            "consumer": self.consumer,
            "device": self._device,
            "documents_held": len(self._holdings),
            "tokens_held": self._holdings.tokens,
            "batch_tokens": self._budget.tokens,
            "metrics_port": self.health.port,
        }

    def _forward(self) -> None:
        """Load the model, start what feeds it, and run packs until the batcher is closed."""
        engine = self._load_engine()
        forwarder = Forwarder(engine, self._budget, self._watch, self._metrics)
        self._start_feeding(engine)
        self._warm.set()
        while pack := self._batcher.take():
            forwarded = forwarder.run(pack)
            if forwarded.deferred:
                self._batcher.put_back(forwarded.deferred)
            if forwarded.finished:
                self._committer.put(forwarded.finished)

    def _load_engine(self) -> Engine:
        started = time.perf_counter()
        try:
            engine = self._load(self._settings)
            engine.warm_up()
        except GpnerError as error:
            self._watch.end_process(str(error), CANNOT_START)
        logger.info("model %s is warm after %.1f s", engine.model_name, time.perf_counter() - started)
        self._metrics.model_info.info({"model": engine.model_name, "device": self._device})
        return engine

    def _start_feeding(self, engine: Engine) -> None:
        estimate = TokenEstimate()
        tokenizers = Tokenizers(
            engine,
            holdings=self._holdings,
            batcher=self._batcher,
            estimate=estimate,
            metrics=self._metrics,
            finish=self._committer.put,
        )
        intake = Intake(
            self._settings,
            self._queue,
            labels=engine.labels,
            holdings=self._holdings,
            batcher=self._batcher,
            estimate=estimate,
            metrics=self._metrics,
            tokenize=tokenizers.put,
            finish=self._committer.put,
            stopping=self._stopping,
        )
        for number in range(self._settings.tokenizer_threads):
            self._watch.thread(f"tokenize-{number}", tokenizers.run).start()
        with self._starting_or_stopping:
            if not self._stopping.is_set():
                self._intake_thread = self._watch.thread("intake", intake.run)
                self._intake_thread.start()

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
        self._committer.close(deadline - time.monotonic())
        _join(self._commit_thread, deadline)
        self._ended.set()
        self._watch.close()
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
