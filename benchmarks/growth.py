"""How speed and memory grow: with the length of documents, with workers, and with the backlog.

    python benchmarks/growth.py RUNS --litbank litbank.jsonl.gz [--only length workers backlog] [--repeats 3] \
        [--small] [--write]

- length: an engine alone, BERT-base's shape, 16,384 tokens in documents of 128 up to one of 16,384. Each run has a
  process of its own, the lengths take turns. The arithmetic of attention grows with the length, so look at the share of
  the peak as well.
- workers: the demo's documents and model through a private Redis, read by one worker and by two, each on one core.
- backlog: 100 to 1,000,000 documents of 1 KB wait in a private Redis before one worker starts, whose engine does
  nothing. The worker's memory is its peak until all is done; Redis' is taken when all wait, and when all have results.

Where one Redis ends with 1 to 64 workers: benchmarks/one_redis.py. --small is a trial in a minute or two.
"""

import argparse
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import page
from engines import peak_resident_bytes
from performance import Measured, best_product, describe_peak, run_in_new_process
from rich.console import Console
from service import SMALL_TEXT, unfinished, worker
from transformers.utils.logging import disable_progress_bar
from workloads import LONGEST, Workload, add_arguments, cut, describe, long_model, read_corpus

from gpner.checkpoint import load_tokenizer
from worker.client import Client
from worker.demo.model import demo_model
from worker.demo.run import read_documents
from worker.local_redis import LocalRedis

SHORTEST = 128
MOST_WORKERS = 2
COPIES = 8
MOST_DOCUMENTS = 1_000_000
SUBMITTED_AT_ONCE = 1_000
CHECK_SECONDS = 0.02
TIMEOUT_SECONDS = 3_600
NOOP = {"GPNER_ENGINE": "tests.engines:load_noop", "GPNER_DEVICE": "cpu", "GPNER_MAX_HELD_TOKENS": "200000"}


@dataclass(frozen=True)
class Sizes:
    """How far each table goes.

    Attributes:
        longest: Tokens of the longest document, and of all documents of each length together.
        copies: Of the demo's documents, for one worker; two get twice as many.
        backlog: Documents of the largest backlog.
    """

    longest: int = LONGEST
    copies: int = COPIES
    backlog: int = MOST_DOCUMENTS


SMALL = Sizes(longest=512, copies=1, backlog=1_000)


def by_length(options: argparse.Namespace, sizes: Sizes) -> list[str]:
    model = long_model(options)
    tokenizer, fiction = load_tokenizer(model), read_corpus(options, "litbank")
    lengths = _powers(SHORTEST, sizes.longest, 2)
    works = [
        describe(f"{length:,}", model, cut(fiction, [length] * (sizes.longest // length), tokenizer), ["gpner"])
        for length in lengths
    ]
    peak, measured = best_product(options.device), [Measured() for _ in works]
    for _ in range(options.repeats):
        for work, of_length in zip(works, measured, strict=True):
            run_in_new_process("gpner", work, options, of_length)
    peak = max(peak, best_product(options.device))
    columns = ("tokens a document", "documents", "tokens/s", "max / min", "MFLOP a token", "share of peak")
    rows = [_length_row(work, of_length, peak) for work, of_length in zip(works, measured, strict=True)]
    return [describe_peak(peak, options.device), "", *page.table(columns, rows)]


def _length_row(work: Workload, measured: Measured, peak: float) -> list[str]:
    if measured.failure:
        raise SystemExit(f"the engine must read documents of {work.name} tokens, it {measured.failure}")
    median = statistics.median(measured.seconds)
    return [
        work.name,
        f"{len(work.texts)}",
        f"{work.tokens / median:,.0f}",
        f"{max(measured.seconds) / min(measured.seconds):.2f}",
        f"{work.flops / work.tokens / 1e6:.0f}",
        f"{work.flops / median / peak:.0%}",
    ]


def by_workers(options: argparse.Namespace, sizes: Sizes) -> list[str]:
    """As many workers as there are cores, at most two; every number of them in turn."""
    cores = sorted(os.sched_getaffinity(0))
    rates: dict[int, list[float]] = {workers: [] for workers in range(1, 1 + min(MOST_WORKERS, len(cores)))}
    for _ in range(options.repeats):
        for workers, of_workers in rates.items():
            of_workers.append(_tokens_per_second(cores[:workers], sizes.copies * workers))
    one = statistics.median(rates[1])
    rows = [
        [f"{workers}", f"{(median := statistics.median(of_workers)):,.0f}", f"{max(of_workers) / min(of_workers):.2f}",
         f"{median / one:.2f}"]
        for workers, of_workers in rates.items()
    ]  # fmt: skip
    return page.table(("workers, one core each", "tokens/s", "max / min", "times one"), rows)


def _tokens_per_second(cores: Sequence[int], copies: int) -> float:
    """Of workers that have a core each, from the submission of many documents to the last result."""
    texts = [document.text for document in read_documents()]
    with LocalRedis() as redis, Client(redis.url) as client, ExitStack() as stack:
        for core in cores:
            with _pinned(core):
                stack.enter_context(worker(redis.url, GPNER_MODEL=str(demo_model()), GPNER_CPU_THREADS="1"))
        list(client.extract_many(texts, TIMEOUT_SECONDS))  # makes the workers ready for these lengths
        started = time.perf_counter()
        results = list(client.extract_many(texts * copies, TIMEOUT_SECONDS))
        seconds = time.perf_counter() - started
    return sum(result.tokens for result in results) / seconds


@contextmanager
def _pinned(core: int) -> Iterator[None]:
    """Processes that are started meanwhile stay on this core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def by_backlog(options: argparse.Namespace, sizes: Sizes) -> list[str]:
    columns = ("documents", "documents/s", "worker, MB", "Redis, all waiting, MB", "Redis, all done, MB")
    return page.table(columns, [_drain(documents) for documents in _powers(100, sizes.backlog, 10)])


def _drain(documents: int) -> list[str]:
    with LocalRedis() as redis, Client(redis.url) as client:
        for first in range(0, documents, SUBMITTED_AT_ONCE):
            client.submit_many([SMALL_TEXT] * min(SUBMITTED_AT_ONCE, documents - first))
        waiting = client.redis.info("memory")["used_memory"]
        with worker(redis.url, **NOOP) as reader:
            started, left = time.perf_counter(), unfinished(client)
            while unfinished(client):
                time.sleep(CHECK_SECONDS)
            seconds = time.perf_counter() - started
            memory = peak_resident_bytes(reader.pid)
        done = client.redis.info("memory")["used_memory"]
    # A small backlog is gone before the worker has said that it is ready.
    rate = f"{left / seconds:,.0f}" if left > documents / 2 else ""
    return [f"{documents:,}", rate, *(f"{size / 1e6:,.0f}" for size in (memory, waiting, done))]


def _powers(first: int, last: int, factor: int) -> list[int]:
    sizes = [first]
    while sizes[-1] * factor <= last:
        sizes.append(sizes[-1] * factor)
    return sizes


TABLES = {
    "length": ("The length of documents", by_length),
    "workers": ("Workers", by_workers),
    "backlog": ("The backlog", by_backlog),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), help="names of tables")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="a trial: short documents and few of them")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    options.device = "cpu"
    disable_progress_bar()
    lines = []
    for name in options.only:
        title, measure = TABLES[name]
        of_table = [f"**{title}**", "", *measure(options, SMALL if options.small else Sizes())]
        Console().print("\n".join(of_table), markup=False, soft_wrap=True)
        lines += of_table
    if options.write:
        page.write("growth", lines[:-1])


if __name__ == "__main__":
    main()
