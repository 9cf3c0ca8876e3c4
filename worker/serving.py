"""The forward thread: loads the model, runs packs with it, and changes to another model when it is told to.

It alone touches the device, so a new model is loaded in it too, while nothing is held. The old one goes on serving if
the new one does not load, which is why the device needs room for both at that moment.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from gpner.errors import GpnerError, OutOfMemoryError, ServiceError
from worker.batcher import Batcher
from worker.budget import MIN_TOKENS, TokenBudget
from worker.engine import Engine
from worker.forwarding import Forwarder
from worker.metrics import Metrics
from worker.outcomes import Finished, reason_of
from worker.settings import Settings
from worker.watch import Watch

logger = logging.getLogger(__name__)

CANNOT_START = 2


class Serving:
    """The model that serves, and the thread that runs it.

    Args:
        settings: The deployment's settings.
        load: Loads the model that the settings name.
        device: What the log and the metrics call the device.
        batcher: Where packs come from; its end is the end of the thread.
        finish: Takes documents that ended.
        resize: Takes the most tokens in a batch, before a model begins to serve.
        warm: Called once, when the first model is ready.
    """

    def __init__(
        self,
        settings: Settings,
        load: Callable[[Settings], Engine],
        *,
        device: str,
        batcher: Batcher,
        budget: TokenBudget,
        watch: Watch,
        metrics: Metrics,
        finish: Callable[[list[Finished]], None],
        resize: Callable[[int], None],
        warm: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._load = load
        self._device = device
        self._batcher = batcher
        self._budget = budget
        self._watch = watch
        self._metrics = metrics
        self._finish = finish
        self._resize = resize
        self._warm = warm
        self._forwarder: Forwarder | None = None
        self._next_model: str | None = None
        self._changed = threading.Event()
        self.last_reload: dict[str, Any] | None = None

    @property
    def forwarder(self) -> Forwarder:
        """Runs packs on the model that serves.

        Raises:
            ServiceError: If none is loaded yet.
        """
        if self._forwarder is None:
            raise ServiceError("the model must be loaded first, it is loading")
        return self._forwarder

    @property
    def engine(self) -> Engine:
        """The model that serves; another one only after a time in which nothing was held."""
        return self.forwarder.engine

    def describe(self) -> dict[str, Any]:
        """Name and revision of the model, empty while it is loading, and how the last reload ended."""
        engine = self._forwarder.engine if self._forwarder else None
        return {
            "model": engine.model_name if engine else "",
            "revision": engine.model_revision if engine else "",
            "last_reload": self.last_reload,
        }

    def run(self) -> None:
        """Load the first model, then run packs and change models until the batcher is closed."""
        try:
            self._use(self._settings.model)
        except GpnerError as error:
            self._watch.end_process(str(error), CANNOT_START)
        self._warm()
        while True:
            if pack := self._batcher.take():
                forwarded = self.forwarder.run(pack)
                if forwarded.deferred:
                    self._batcher.put_back(forwarded.deferred)
                if forwarded.finished:
                    self._finish(forwarded.finished)
            elif self._next_model is not None:
                self._change(self._next_model)
            else:
                return

    def change_model(self, path: str) -> None:
        """Have the model in a folder loaded, and wait until it serves or has failed. Nothing may be held meanwhile."""
        self._changed.clear()
        self._next_model = path
        self._batcher.interrupt()
        self._changed.wait()

    def _change(self, path: str) -> None:
        self._next_model = None
        started = time.perf_counter()
        problem = None
        try:
            self._use(path)
        except BaseException as error:  # noqa: BLE001 - whatever is wrong with it, even a panic in Rust, the old one works
            problem = (
                reason_of(error) if isinstance(error, GpnerError) else f"{type(error).__name__}: {reason_of(error)}"
            )
            logger.error("the new model could not be loaded, the old one goes on: %s", problem)
        self.last_reload = {
            "path": path,
            "outcome": "failed" if problem else "done",
            "problem": problem,
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - started, 3),
        }
        self._changed.set()

    def _use(self, path: str) -> None:
        started = time.perf_counter()
        with self._watch.loading():
            engine = self._load(self._settings.model_copy(update={"model": path}))
            self._warm_up(engine)
            self._forwarder = Forwarder(engine, self._budget, self._watch, self._metrics)
            self._resize(self._settings.max_batch_tokens or engine.max_batch_tokens)
        logger.info(
            "model %s, revision %s, is warm after %.1f s; batches hold at most %d tokens",
            engine.model_name, engine.model_revision, time.perf_counter() - started, self._budget.tokens,
        )  # fmt: skip
        self._metrics.expect_labels(engine.labels)
        self._metrics.device_peak_flops.set(engine.peak_flops)
        self._metrics.model_info.info(
            {"model": engine.model_name, "revision": engine.model_revision, "device": self._device}
        )

    def _warm_up(self, engine: Engine) -> None:
        """Warm up with the largest batch; one that nobody set is halved until it fits."""
        while True:
            try:
                engine.warm_up()
                return
            except OutOfMemoryError as error:
                # Found earlier, when nothing else used the device.
                if self._settings.max_batch_tokens or engine.max_batch_tokens <= MIN_TOKENS:
                    raise
                logger.warning("batches are halved: %s", reason_of(error))
            engine.max_batch_tokens //= 2
