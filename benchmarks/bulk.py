"""Bulk jobs: how many documents a second reading, writing and the queue can carry, in how much memory, and what a model
keeps of its speed.

    python benchmarks/bulk.py [--documents 200000] [--laws ../shared/data/laws.jsonl.gz] [--model FOLDER]

The first rows are documents of 1 KB and an engine that does nothing: a quarter of them, then all, in process and over a
private Redis with one worker. Memory must not grow with their number. With `--laws` statutes go through a model, alone
and as a job in process, one after the other. Times of a machine that does other things besides say little; the seconds
of processor time do, so they stand beside.
"""

import argparse
import gzip
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from service import worker

from worker.demo.model import demo_model
from worker.local_redis import LocalRedis

TEXT = "a document of about one kilobyte " * 30
NOOP = {"GPNER_ENGINE": "tests.engines:load_noop", "GPNER_DEVICE": "cpu"}
# So that the worker, which does nothing, is not kept waiting by its limits.
WIDE = {"GPNER_MAX_BATCH_TOKENS": "50000", "GPNER_MAX_HELD_TOKENS": "200000"}
LAWS_DOCUMENTS = 96
BATCH_TOKENS = "4096"
ALONE = """
import json, sys, time
from gpner.process import prepare_process
prepare_process()
from gpner.extractor import Extractor
texts = [json.loads(line)["text"] for line in open(sys.argv[2], encoding="utf-8")]
extractor = Extractor.from_pretrained(sys.argv[1], max_batch_tokens=int(sys.argv[3]))
started, cpu = time.perf_counter(), time.process_time()
tokens = sum(extraction.tokens for extraction in extractor.extract_iter(texts))
print(json.dumps([tokens, time.perf_counter() - started, time.process_time() - cpu]))
"""


def write_corpus(path: Path, documents: int) -> Path:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"id": f"document-{number}", "text": TEXT}) + "\n" for number in range(documents))
    return path


def run_job(corpus: Path, output: Path, *flags: str, **environment: str) -> tuple[dict[str, float], float, float]:
    """Run a job; its summary's account of the run, its processor time in seconds and its greatest memory in MB."""
    job = subprocess.Popen(
        [sys.executable, "-m", "worker.cli", "bulk", str(corpus), "--output", str(output), "--quiet", *flags],
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), **environment},
    )
    _, status, used = os.wait4(job.pid, 0)
    job.returncode = os.waitstatus_to_exitcode(status)
    if job.returncode:
        raise SystemExit(f"the job ended with {job.returncode}")
    last_run = json.loads((output / "summary.json").read_bytes())["last_run"]
    return last_run, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def carrying(folder: Path, documents: Sequence[int]) -> Table:
    table = Table("way", "documents", "documents/s", "processor us a document", "memory MB")
    for number in documents:
        corpus = write_corpus(folder / "corpus.jsonl", number)
        last_run, cpu, memory = run_job(corpus, folder / f"local-{number}", "--local", **NOOP)
        table.add_row("--local", *_cells(number, last_run["seconds"], cpu, memory))
        with LocalRedis() as redis:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            with worker(redis.url, **NOOP, **WIDE):
                last_run, cpu, memory = run_job(corpus, folder / f"queue-{number}", GPNER_REDIS_URL=redis.url)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            others = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime - cpu
        table.add_row("over the queue", *_cells(number, last_run["seconds"], cpu, memory))
        table.add_row("  its worker", "", "", f"{1e6 * others / number:.1f}", "")
    return table


def keeping(folder: Path, laws: Path, model: Path) -> Table:
    corpus = folder / "laws.jsonl"
    with gzip.open(laws, "rt", encoding="utf-8") as lines:
        corpus.write_text("".join(itertools.islice(lines, LAWS_DOCUMENTS)), "utf-8")
    table = Table("statutes", "tokens/s", "processor seconds")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(model), str(corpus), BATCH_TOKENS], capture_output=True, check=True
    )
    tokens, seconds, cpu = json.loads(done.stdout)
    table.add_row("engine alone", f"{tokens / seconds:,.0f}", f"{cpu:.1f}")
    engine = {"GPNER_MODEL": str(model), "GPNER_MAX_BATCH_TOKENS": BATCH_TOKENS}
    started = time.perf_counter()
    last_run, job_cpu, _ = run_job(corpus, folder / "laws", "--local", **engine)
    starting = time.perf_counter() - started - last_run["seconds"]
    table.add_row("bulk --local", f"{last_run['tokens_per_second']:,.0f}", f"{job_cpu:.1f}, {starting:.1f} to start")
    table.add_row("share", f"{last_run['tokens_per_second'] * seconds / tokens:.1%}", "")
    return table


def _cells(documents: int, seconds: float, cpu: float, memory: float) -> list[str]:
    return [f"{documents:,}", f"{documents / seconds:,.0f}", f"{1e6 * cpu / documents:.1f}", f"{memory:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=200_000)
    parser.add_argument("--laws", type=Path, help="laws.jsonl.gz")
    parser.add_argument("--model", type=Path, help="folder of a trained model; the demo's by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gpner-bulk-") as folder:
        Console(width=120).print(carrying(Path(folder), [options.documents // 4, options.documents]))
        if options.laws:
            Console(width=120).print(keeping(Path(folder), options.laws, options.model or demo_model()))


if __name__ == "__main__":
    main()
