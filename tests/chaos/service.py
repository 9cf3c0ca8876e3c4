"""The service under fault: one Redis and so many workers, each replaced as soon as it ends."""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from tests.workers import DurableRedis, WorkerProcess, wait_until
from worker.protocol import Keys
from worker.settings import Settings

# How often the supervisor looks.
LOOK_SECONDS = 0.05
# The longest wait for one more document to be done, and for whatever else must come.
PATIENCE_SECONDS = 40.0
LEASE_SECONDS = 1.0
# A short lease, packs of a few documents, and no drain that outlasts a test. Faults come every second here, not every
# other week: a document may be held by many workers that die, and only those that poison them must be buried.
WORKER_SETTINGS = {
    "lease_seconds": LEASE_SECONDS,
    "max_batch_tokens": 60,
    "max_held_tokens": 600,
    "max_deliveries": 50,
    "drain_seconds": 5,
}


class Workers:
    """Worker processes and their supervisor, a thread that replaces every one that ends.

    Args:
        number: How many there are.
        launch: Starts one.

    Attributes:
        ends: The exit codes of those that ended, negative for signals.
    """

    def __init__(self, number: int, launch: Callable[[], WorkerProcess]) -> None:
        self.ends: list[int] = []
        self._launch = launch
        self._now = [launch() for _ in range(number)]
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="supervisor")
        self._thread.start()

    def all(self) -> list[WorkerProcess]:
        """The processes of this moment; one may just have ended."""
        return list(self._now)

    def ready(self) -> list[WorkerProcess]:
        """Those that take documents."""
        return [worker for worker in self._now if worker.port and worker.get("/readyz")[0] == 200]

    def one(self, random: Random) -> WorkerProcess:
        """One that takes documents; waits until there is one."""
        wait_until(self.ready, PATIENCE_SECONDS, "a ready worker")
        return random.choice(self.ready() or self.all())

    def close(self) -> None:
        """Replace no more, and kill them."""
        self._closing.set()
        self._thread.join()
        for worker in self._now:
            worker.kill()

    def _supervise(self) -> None:
        while not self._closing.wait(LOOK_SECONDS):
            for place, worker in enumerate(self._now):
                if (code := worker.ended()) is not None:
                    self.ends.append(code)
                    self._now[place] = self._launch()


class Service:
    """Runs within its `with` block.

    Args:
        redis: A server that is not started yet.
        folder: Where the logs of the workers go.
        engine: What reads the documents, as `module:function`.
        workers: How many workers.
        environment: Variables for the workers.
        overrides: Their settings beyond those of the suite.
    """

    def __init__(
        self,
        redis: DurableRedis,
        folder: Path,
        engine: str,
        workers: int,
        environment: dict[str, str],
        **overrides: object,
    ) -> None:
        self.redis = redis
        self.settings = Settings(redis_url=redis.url, namespace="chaos:")
        self.keys = Keys(self.settings.namespace)
        self.reply_to = self.keys.reply("producer")
        # It waits out what the faults do to connections.
        self.store = Redis(
            redis.host, redis.port, socket_timeout=5, socket_connect_timeout=5, retry=Retry(ExponentialBackoff(1), 8)
        )
        self._numbers = count(1)
        self._launch = lambda: WorkerProcess(
            self.settings,
            engine,
            folder / f"worker-{next(self._numbers)}.log",
            environment,
            **{**WORKER_SETTINGS, **overrides},
        )
        self._number = workers

    def __enter__(self) -> Self:
        with ExitStack() as ending:
            ending.callback(self.store.close)
            ending.callback(self.redis.kill)
            self.redis.start()
            self.workers = Workers(self._number, self._launch)
            ending.callback(self.workers.close)
            self._ending = ending.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.close()

    def replies(self) -> int:
        """How many outcomes there are, which only grow."""
        return int(self.store.xlen(self.reply_to))

    def wait_for_progress(self, or_until: Callable[[], bool] = lambda: False) -> None:
        """Return when one more document is done, or when there is nothing to wait for."""
        before = self.replies()
        wait_until(lambda: self.replies() > before or or_until(), PATIENCE_SECONDS, "another result")

    def held_by(self, worker: WorkerProcess) -> int:
        """How many documents are pending under the name of this worker."""
        held = 0
        for stream in self.keys.streams:
            for consumer in self.store.xinfo_consumers(stream, self.keys.group):
                # The name is host-pid-random.
                if consumer["name"].decode().rsplit("-", 2)[1] == str(worker.pid):
                    held += consumer["pending"]
        return held

    def wait_until_ready(self) -> None:
        """Return when all workers take documents."""
        wait_until(lambda: len(self.workers.ready()) == self._number, PATIENCE_SECONDS, "readiness of all workers")

    def wait_until_quiet(self) -> None:
        """Return when all documents are done, and all workers are there and hold none."""
        while self._unfinished():
            self.wait_for_progress(or_until=lambda: not self._unfinished())
        self.wait_until_ready()
        wait_until(lambda: not any(map(_holds, self.workers.ready())), what="workers that hold nothing")

    def _unfinished(self) -> bool:
        return any(map(self.store.xlen, self.keys.streams))


def _holds(worker: WorkerProcess) -> float:
    return worker.metric("gpner_documents_in_flight")
