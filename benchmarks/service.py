"""The service against the bare engine: what queue, worker and commit cost.

    python benchmarks/service.py [--model FOLDER] [--repeats 3]

With the model: the demo's documents, several times over, through the `Extractor` alone and through a private Redis
and one real worker process, interleaved; the share is what the service keeps of the engine's speed. With an engine that
does nothing: how many documents of 1 KB a second the queue, the worker and the commits can carry, and what a document
costs worker and Redis in processor time, which says the same of a machine that is busy with other things too.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from rich.console import Console
from rich.table import Table

from gpner.process import prepare_process
from worker.client import Client
from worker.demo.model import demo_model
from worker.demo.run import read_documents
from worker.local_redis import LocalRedis, free_port

COPIES = 4
BATCH_TOKENS = 4096
SMALL_DOCUMENTS = 30_000
SMALL_TEXT = "a document of about one kilobyte " * 30


@dataclass(frozen=True)
class Worker:
    """A worker process: its id, and the port of its metrics."""

    pid: int
    port: int


@contextmanager
def worker(redis_url: str, errors: IO[str] | None = None, **settings: str) -> Iterator[Worker]:
    """One real worker process, ready; `errors` takes what it says on standard error."""
    port = free_port()
    ours = {"GPNER_REDIS_URL": redis_url, "GPNER_METRICS_PORT": str(port), "PYTHONPATH": str(Path.cwd())}
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.cli", "start"],
        env={**os.environ, **ours, **settings},
        stdout=subprocess.DEVNULL,
        stderr=errors or subprocess.DEVNULL,
    )
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1)
                break
            except (urllib.error.URLError, OSError):
                if process.poll() is not None:
                    raise SystemExit("the worker did not start") from None
                time.sleep(0.1)
        yield Worker(process.pid, port)
    finally:
        process.terminate()
        process.wait(60)


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def with_model(model: Path, repeats: int) -> list[str]:
    """Interleaves the bare engine, in a process of its own, with the service; the other side sleeps meanwhile."""
    prepare_process()
    texts = [document.text for document in read_documents()] * COPIES
    as_large = {"GPNER_MODEL": str(model), "GPNER_MAX_BATCH_TOKENS": str(BATCH_TOKENS)}
    seconds: dict[str, list[float]] = {"engine": [], "service": []}
    busy = []
    with LocalRedis() as redis, worker(redis.url, **as_large) as process, Client(redis.url) as client:
        from gpner.extractor import Extractor

        extractor = Extractor.from_pretrained(model, max_batch_tokens=BATCH_TOKENS)
        tokens = sum(extraction.tokens for extraction in extractor.extract(texts))
        for _ in range(repeats):
            seconds["engine"].append(seconds_of(lambda: list(extractor.extract_iter(texts))))
            before = device_seconds(process.port)
            seconds["service"].append(seconds_of(lambda: list(client.extract_many(texts, timeout_seconds=600))))
            busy.append((device_seconds(process.port) - before) / seconds["service"][-1])
    engine, service = (statistics.median(seconds[side]) for side in ("engine", "service"))
    spread = max(seconds["service"]) / min(seconds["service"])
    return [
        "MiniLM model",
        f"{len(texts)}",
        f"{len(texts) / engine:,.1f} documents/s, {tokens / engine:,.0f} tokens/s",
        f"{len(texts) / service:,.1f} documents/s, {tokens / service:,.0f} tokens/s",
        f"{engine / service:.1%}",
        f"{spread:.2f}",
        f"{statistics.median(busy):.1%}",
        "-",
    ]


def without_model(repeats: int) -> list[str]:
    runs = []
    with LocalRedis() as redis, Client(redis.url) as client:
        for _ in range(repeats):
            client.submit_many([SMALL_TEXT] * SMALL_DOCUMENTS)
            with worker(redis.url, GPNER_ENGINE="tests.engines:load_noop", GPNER_MAX_HELD_TOKENS="200000") as reader:
                runs.append(drain(client, reader.port))
    rates, worker_seconds, redis_seconds = zip(*runs, strict=True)
    costs = f"worker {min(worker_seconds) * 1e6:.1f} µs, Redis {min(redis_seconds) * 1e6:.1f} µs"
    rate, spread = statistics.median(rates), max(rates) / min(rates)
    return ["no-op engine", f"{SMALL_DOCUMENTS}", "-", f"{rate:,.0f} documents/s", "-", f"{spread:.2f}", "-", costs]


def drain(client: Client, port: int) -> tuple[float, float, float]:
    """Documents a second, and processor seconds of worker and Redis for one.

    Counted from the documents that are left now: the worker has begun before it said that it is ready.
    """
    started, left, before = time.perf_counter(), unfinished(client), processor_seconds(client, port)
    while unfinished(client):
        time.sleep(0.01)
    seconds, after = time.perf_counter() - started, processor_seconds(client, port)
    return left / seconds, (after[0] - before[0]) / left, (after[1] - before[1]) / left


def processor_seconds(client: Client, port: int) -> tuple[float, float]:
    """What worker and Redis have used since their start."""
    (used,) = [sample.value for sample in samples(port) if sample.name == "gpner_process_cpu_seconds_total"]
    of_redis = client.redis.info("cpu")
    return used, of_redis["used_cpu_user"] + of_redis["used_cpu_sys"]


def device_seconds(port: int) -> float:
    """How long the worker's device has computed since its start."""
    return sum(
        sample.value
        for sample in samples(port)
        if sample.name == "gpner_stage_duration_seconds_sum" and sample.labels["stage"] in ("forward", "decode")
    )


def samples(port: int) -> list[Sample]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        families = text_string_to_metric_families(page.read().decode())
        return [sample for family in families for sample in family.samples]


def unfinished(client: Client) -> int:
    return sum(client.redis.xlen(stream) for stream in client.keys.streams)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a trained model; the demo's by default")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    table = Table(
        "engine", "documents", "bare engine", "service", "share", "max/min", "device busy", "processor time a document"
    )
    table.add_row(*with_model(options.model or demo_model(), options.repeats))
    table.add_row(*without_model(options.repeats))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
