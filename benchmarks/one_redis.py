"""How many workers one Redis carries: real queues, batches, leases and commits, around a model that only takes time.

    python -m benchmarks.one_redis [--workers 1 2 4 8 16 32 64] [--rate 20] [--seconds 20]

Each worker has everything that a real one has but Celery and a model: its engine sleeps, so that it does --rate
documents of 1 KB a second. Redis does nearly all of its work in one thread, and ends where that thread has a whole
core. So the table gives the thread's seconds: what workers cost that wait, and what a document costs from submission to
result, apart from that. Both hold however busy the machine is with other things; the workers' own pace does not.
"Would fill it" is where documents of that cost would take all of the core, with nobody waiting. Under a higher rate a
worker reads and commits more documents at once, so they cost less.

The append-only file is synced at every write, as ops/redis/redis.conf has it. That the thread waits for the disk is not
in its seconds: a slow disk ends earlier, but syncs everything that came meanwhile at once.
"""

import argparse
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event, Semaphore

from redis import Redis
from rich.console import Console
from rich.table import Table

from tests.engines import CapitalsEngine
from worker.client import Client
from worker.local_redis import LocalRedis
from worker.pump import Pump
from worker.queue import DocumentQueue
from worker.settings import Settings

TEXT = "ADA wrote a document of about one kilobyte " * 23
WORDS = len(TEXT.split())
# So many workers share a process, so that no process is kept from its core by too many threads.
WORKERS_IN_PROCESS = 8
START_SECONDS = 60.0
CHECK_SECONDS = 0.1
BULK = 256


@dataclass(frozen=True)
class Cost:
    """What a number of workers cost Redis.

    Attributes:
        workers: How many there were.
        idle_share: Of a core, while they waited for documents.
        documents_per_second: What they did together.
        busy_share: Of a core, meanwhile.
        document_seconds: Of the core for one document, what waiting workers cost taken off.
    """

    workers: int
    idle_share: float
    documents_per_second: float
    busy_share: float
    document_seconds: float


def serve(redis_url: str, workers: int, rate: float, ready: Semaphore, stopping: Event) -> None:
    """Some workers in a process of their own, until `stopping` is set."""
    settings = Settings(redis_url=redis_url, metrics_port=0)

    def load(settings: Settings) -> CapitalsEngine:
        return CapitalsEngine(settings, seconds_per_token=1 / (rate * WORDS))

    pumps = [Pump(settings, load, device="cpu") for _ in range(workers)]
    for pump in pumps:
        pump.start()
    while any(pump.not_ready() for pump in pumps):
        time.sleep(CHECK_SECONDS)
    ready.release()
    stopping.wait()
    for pump in pumps:
        pump.terminate()


@contextmanager
def running(redis_url: str, workers: int, rate: float) -> Iterator[None]:
    """So many workers, ready, in as few processes as they fit into."""
    context = multiprocessing.get_context("spawn")
    ready, stopping = context.Semaphore(0), context.Event()
    shares = [min(WORKERS_IN_PROCESS, workers - first) for first in range(0, workers, WORKERS_IN_PROCESS)]
    processes = [context.Process(target=serve, args=(redis_url, share, rate, ready, stopping)) for share in shares]
    for process in processes:
        process.start()
    try:
        for _ in processes:
            if not ready.acquire(timeout=START_SECONDS):
                raise SystemExit(f"the workers must be ready within {START_SECONDS:g} s, were not")
        yield
    finally:
        stopping.set()
        for process in processes:
            process.join()


def main_thread_seconds(redis: Redis) -> float:
    """Processor time of the thread that runs the commands."""
    used = redis.info("cpu")
    return float(used["used_cpu_user_main_thread"] + used["used_cpu_sys_main_thread"])


def measure(workers: int, rate: float, seconds: float) -> Cost:
    """Let workers wait for a while, then do what takes them about `seconds`."""
    documents = max(1, round(workers * rate * seconds))
    with LocalRedis() as server, Client(server.url) as client:
        client.redis.config_set("appendfsync", "always")
        client.redis.config_set("appendonly", "yes")
        queue = DocumentQueue(client.settings, consumer="observer")
        queue.ensure()
        with running(server.url, workers, rate):
            before, started = main_thread_seconds(client.redis), time.monotonic()
            time.sleep(seconds / 4)
            idle_share = (main_thread_seconds(client.redis) - before) / (time.monotonic() - started)

            before, started = main_thread_seconds(client.redis), time.monotonic()
            for first in range(0, documents, BULK):
                client.submit_many([TEXT] * min(BULK, documents - first))
            while sum(queue.depth().values()):
                time.sleep(CHECK_SECONDS)
            used, took = main_thread_seconds(client.redis) - before, time.monotonic() - started
        queue.close()
    return Cost(workers, idle_share, documents / took, used / took, (used - idle_share * took) / documents)


def table(costs: Sequence[Cost]) -> Table:
    columns = ("workers", "of a core, waiting", "documents/s", "of a core, working", "us a document", "would fill it")
    rows = Table(*columns, title="Redis' main thread")
    for cost in costs:
        rows.add_row(
            f"{cost.workers}",
            f"{cost.idle_share:.2%}",
            f"{cost.documents_per_second:,.0f}",
            f"{cost.busy_share:.1%}",
            f"{1e6 * cost.document_seconds:.1f}",
            f"{1 / cost.document_seconds:,.0f} documents/s",
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--rate", type=float, default=20, help="documents a second of one worker")
    parser.add_argument("--seconds", type=float, default=20, help="about how long the workers work, each time")
    options = parser.parse_args()
    Console(width=120).print(table([measure(workers, options.rate, options.seconds) for workers in options.workers]))


if __name__ == "__main__":
    main()
