"""How long one document takes on an idle worker, and how long a worker takes to be ready.

    python benchmarks/latency.py [--model FOLDER] [--lengths 32 512 4096] [--repeats 15] [--starts 5] [--write]

One document at a time, through a private Redis and one real worker process that has nothing else to do: from its
submission to its result, against the same text through an engine in this process, in turn. What lies between the two
is the service's: client and Redis, the wait for documents to share a batch with, the commit. Starts are timed from the
command to /readyz; the first one, which fills the file cache, is not counted. One more start tells which packages took
longest to import, each without what it imports of others.
"""

import argparse
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import page
from rich.console import Console
from service import seconds_of, worker

from gpner.process import prepare_process
from worker.client import Client
from worker.demo.model import demo_model
from worker.demo.run import read_documents
from worker.local_redis import LocalRedis

TIMEOUT_SECONDS = 600
PACKAGES = 5
IMPORT = re.compile(r"import time:\s+(?P<own>\d+) \|\s+\d+ \|\s+(?P<package>\w+)")


def latencies(model: Path, lengths: Sequence[int], repeats: int) -> list[str]:
    """A table of the time from submission to result; the first round is not counted."""
    prepare_process()
    from transformers.utils.logging import disable_progress_bar
    from workloads import cut

    from gpner.checkpoint import load_tokenizer
    from gpner.extractor import Extractor

    disable_progress_bar()
    texts = cut([document.text for document in read_documents()], lengths, load_tokenizer(model))
    seconds: dict[int, list[tuple[float, float]]] = {length: [] for length in lengths}
    with LocalRedis() as redis, worker(redis.url, GPNER_MODEL=str(model)), Client(redis.url) as client:
        extractor = Extractor.from_pretrained(model)
        for _ in range(1 + repeats):
            for length, text in zip(lengths, texts, strict=True):
                alone = seconds_of(lambda text=text: extractor.extract([text]))
                served = seconds_of(lambda text=text: client.extract(text, TIMEOUT_SECONDS))
                seconds[length].append((alone, served))
    rows = [_latency_row(length, pairs[1:]) for length, pairs in seconds.items()]
    return page.table(("tokens", "engine alone, ms", "service, ms", "above the engine, ms", "at most, ms"), rows)


def _latency_row(length: int, pairs: Sequence[tuple[float, float]]) -> list[str]:
    above = [served - alone for alone, served in pairs]
    alone, served = (statistics.median(side) for side in zip(*pairs, strict=True))
    return [f"{length:,}", *(f"{1e3 * value:.0f}" for value in (alone, served, statistics.median(above), max(above)))]


def starts(model: Path, repeats: int) -> list[str]:
    """A sentence about the time to /readyz, and a table of what is imported on the way."""
    with LocalRedis() as redis, tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        seconds = [_start(redis.url, model) for _ in range(1 + repeats)][1:]
        with worker(redis.url, errors, GPNER_MODEL=str(model), PYTHONPROFILEIMPORTTIME="1"):
            pass
        errors.seek(0)
        imported = _import_microseconds(errors.read())
    rows = [[package, f"{own / 1e3:,.0f}"] for package, own in imported.most_common(PACKAGES)]
    return [
        f"From `gpner-worker start` to `/readyz`: {statistics.median(seconds):.1f} s "
        f"({min(seconds):.1f} to {max(seconds):.1f} in {repeats} starts); "
        f"{imported.total() / 1e6:.1f} s of it imports when they are timed.",
        "",
        *page.table(("package", "own imports, ms"), rows),
    ]


def _start(redis_url: str, model: Path) -> float:
    started = time.perf_counter()
    with worker(redis_url, GPNER_MODEL=str(model)):
        return time.perf_counter() - started


def _import_microseconds(log: str) -> Counter[str]:
    """Of every package, what its modules took themselves."""
    own: Counter[str] = Counter()
    for found in IMPORT.finditer(log):
        own[found["package"]] += int(found["own"])
    return own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a trained model; the demo's by default")
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 512, 4096], help="tokens")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/")
    options = parser.parse_args()
    model = options.model or demo_model()
    lines = starts(model, options.starts) + latencies(model, options.lengths, options.repeats)
    Console().print("\n".join(lines), markup=False, soft_wrap=True)
    if options.write:
        page.write("latency", lines[:-1])


if __name__ == "__main__":
    main()
