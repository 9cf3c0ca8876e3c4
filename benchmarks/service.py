"""The service against the bare engine: what queue, worker and commit cost.

    python benchmarks/service.py RUNS [--litbank litbank.jsonl.gz --wnut17 wnut17.test.jsonl.gz] [--repeats 3] [--write]

With a model: texts through the `Extractor` alone and through a private Redis and one real worker process, interleaved;
the share is what the service keeps of the engine's speed. The demo's model reads the demo's documents and, where the
corpora are given, the length mix and the short texts of benchmarks/performance.py, which BERT-base's shape reads too.
With an engine that does nothing: how many documents of 1 KB a second the queue, the worker and the commits can carry,
and what a document costs worker and Redis in processor time, which says the same of a machine that is busy with other
things too.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import page
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from rich.console import Console

from gpner.process import prepare_process
from worker.client import Client
from worker.demo.model import demo_model
from worker.demo.run import read_documents
from worker.local_redis import LocalRedis, free_port

COPIES = 4
BATCH_TOKENS = 4096
TIMEOUT_SECONDS = 600
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


def readings(options: argparse.Namespace) -> Iterator[tuple[str, Path, str, list[str]]]:
    """Who reads what: a model's name and folder, the texts' name, and the texts."""
    from workloads import make_workload

    yield "MiniLM", demo_model(), "the demo's", [document.text for document in read_documents()] * COPIES
    if options.litbank and options.wnut17:
        trained = make_workload("length mix, trained MiniLM", options)
        mix, short = make_workload("length mix", options), make_workload("short texts", options)
        yield "MiniLM", trained.model, "length mix", trained.texts * COPIES
        yield "MiniLM", trained.model, "short texts", short.texts * COPIES
        yield "BERT-base", mix.model, "length mix", mix.texts
        yield "BERT-base", short.model, "short texts", short.texts


def with_models(options: argparse.Namespace) -> list[str]:
    """Interleaves the bare engine, in this process, with the service; the other side sleeps meanwhile."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    rows = [
        [name, of_texts, *_against_engine(model, texts, options)] for name, model, of_texts, texts in readings(options)
    ]
    columns = (
        "model",
        "texts",
        "documents",
        "engine, tokens/s",
        "service, tokens/s",
        "share",
        "max / min",
        "device busy",
    )
    return page.table(columns, rows)


def _against_engine(model: Path, texts: Sequence[str], options: argparse.Namespace) -> tuple[str, ...]:
    from gpner.extractor import Extractor

    as_large = {"GPNER_MODEL": str(model), "GPNER_MAX_BATCH_TOKENS": str(BATCH_TOKENS)}
    engine, service, busy = [], [], []
    with LocalRedis() as redis, worker(redis.url, **as_large) as process, Client(redis.url) as client:
        extractor = Extractor.from_pretrained(model, max_batch_tokens=BATCH_TOKENS)
        tokens = sum(extraction.tokens for extraction in extractor.extract(texts))
        for _ in range(options.repeats):
            engine.append(seconds_of(lambda: list(extractor.extract_iter(texts))))
            before = device_seconds(process.port)
            service.append(seconds_of(lambda: list(client.extract_many(texts, TIMEOUT_SECONDS))))
            busy.append((device_seconds(process.port) - before) / service[-1])
    alone, served = statistics.median(engine), statistics.median(service)
    return (
        f"{len(texts):,}",
        f"{tokens / alone:,.0f}",
        f"{tokens / served:,.0f}",
        f"{alone / served:.1%}",
        f"{max(service) / min(service):.2f}",
        f"{statistics.median(busy):.1%}",
    )


def without_model(repeats: int) -> list[str]:
    """What queue, worker and commits carry where the engine costs nothing."""
    runs = []
    with LocalRedis() as redis, Client(redis.url) as client:
        for _ in range(repeats):
            client.submit_many([SMALL_TEXT] * SMALL_DOCUMENTS)
            with worker(redis.url, GPNER_ENGINE="tests.engines:load_noop", GPNER_MAX_HELD_TOKENS="200000") as reader:
                runs.append(drain(client, reader.port))
    rates, of_worker, of_redis = zip(*runs, strict=True)
    row = [
        f"{SMALL_DOCUMENTS:,}",
        f"{statistics.median(rates):,.0f}",
        f"{max(rates) / min(rates):.2f}",
        f"{min(of_worker) * 1e6:.1f}",
        f"{min(of_redis) * 1e6:.1f}",
    ]
    columns = ("documents of 1 KB", "documents/s", "max / min", "worker, µs a document", "Redis, µs a document")
    return page.table(columns, [row])


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
    prepare_process()
    from workloads import add_arguments

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--wnut17", type=Path, help="wnut17.test.jsonl.gz, or other short texts")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/")
    parser.set_defaults(trained=None, scale=1)
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    lines = with_models(options) + without_model(options.repeats)
    Console().print("\n".join(lines), markup=False, soft_wrap=True)
    if options.write:
        page.write("service", lines[:-1])


if __name__ == "__main__":
    main()
