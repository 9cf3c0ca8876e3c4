"""What `gpner-worker demo` does, from an empty machine to highlighted entities."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from gpner.errors import ServiceError
from worker.client import Client, Result
from worker.demo.model import demo_model
from worker.demo.show import highlight
from worker.local_redis import WITH_A_LIFELINE, LocalRedis, free_port
from worker.settings import ENV_PREFIX

DOCUMENTS = Path(__file__).parent / "documents.jsonl"
# One of each kind that reads well on one screen.
SHOWN = ("kilometre-212", "toll-keeper-of-lindmouth", "sale-of-the-bakery-rue-des-tanneurs")
START_SECONDS = 120.0
RESULT_SECONDS = 120.0
STOP_SECONDS = 40.0


@dataclass(frozen=True)
class DemoDocument:
    """One document that was written for the demo."""

    id: str
    title: str
    kind: str
    text: str


def run_demo(console: Console, *, keep: bool = False) -> None:
    """Start Redis and a worker, send the documents through the queue, show what comes back.

    Args:
        console: Where to print.
        keep: Whether Redis and the worker stay until Ctrl-C.

    Raises:
        ServiceError: If Redis or the worker does not start.
        CheckpointError: If the model's encoder is not installed.
    """
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        del os.environ[name]  # what is set for a real service is not for the demo
    documents = read_documents()
    with console.status("preparing the model (once, into your cache)"):
        model = demo_model()
    with LocalRedis() as redis, _worker(redis, model, console) as metrics_url:
        with Client(redis.url) as client:
            results, seconds = _extract(client, documents, console)
        _show(console, documents, results)
        _summarize(console, results, seconds, redis, metrics_url)
        if keep:
            console.print("running until Ctrl-C", style="dim")
            signal.sigwait({signal.SIGINT, signal.SIGTERM})


def read_documents() -> list[DemoDocument]:
    """Read the documents that are shipped with the project."""
    return [DemoDocument(**json.loads(line)) for line in DOCUMENTS.read_text(encoding="utf-8").splitlines()]


@contextmanager
def _worker(redis: LocalRedis, model: Path, console: Console) -> Iterator[str]:
    """Run a worker process on the private Redis; gives the address of its metrics once it is ready."""
    port = free_port()
    settings = {"GPNER_REDIS_URL": redis.url, "GPNER_MODEL": str(model), "GPNER_METRICS_PORT": str(port)}
    with tempfile.NamedTemporaryFile("w+", prefix="gpner-worker-", suffix=".log") as log:
        # A session of its own: Ctrl-C reaches the demo, which lets the worker drain before Redis goes.
        process = subprocess.Popen(  # noqa: S603 - the arguments are ours
            ["/bin/sh", "-c", WITH_A_LIFELINE, "sh", sys.executable, "-m", "worker.cli", "start"],
            env=os.environ | settings,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            with console.status("starting a worker"):
                _wait_until_ready(process, f"http://127.0.0.1:{port}/readyz", Path(log.name))
            yield f"http://127.0.0.1:{port}/metrics"
        finally:
            _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServiceError(f"the worker must stay up, it ended with code {process.returncode}:\n{log.read_text()}")
        try:
            with urllib.request.urlopen(url, timeout=2):  # noqa: S310 - our own worker
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.1)
    raise ServiceError(f"the worker must be ready within {START_SECONDS:.0f} s, was not; its log:\n{log.read_text()}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with process:  # closes the lifeline
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def _extract(client: Client, documents: list[DemoDocument], console: Console) -> tuple[list[Result], float]:
    results: list[Result] = []
    started = time.perf_counter()
    columns = (TextColumn("documents"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("documents", total=len(documents))
        for answer in client.extract_many([document.text for document in documents], RESULT_SECONDS):
            if not isinstance(answer, Result):
                raise ServiceError(f"a document of the demo failed with {answer.error.type}: {answer.error.message}")
            results.append(answer)
            progress.advance(task)
    return results, time.perf_counter() - started


def _show(console: Console, documents: list[DemoDocument], results: list[Result]) -> None:
    for document, result in zip(documents, results, strict=True):
        if document.id in SHOWN:
            title = f"{document.title} ({document.kind}, {len(result.entities)} entities)"
            console.print(Panel(highlight(document.text, result.entities), title=title, padding=(1, 2)))


def _summarize(console: Console, results: list[Result], seconds: float, redis: LocalRedis, metrics_url: str) -> None:
    tokens = sum(result.tokens for result in results)
    entities = sum(len(result.entities) for result in results)
    console.print(
        f"{len(results)} documents, {tokens:,} tokens, {entities:,} entities in {seconds:.1f} s: "
        f"{len(results) / seconds:.1f} documents and {tokens / seconds:,.0f} tokens a second, queue and worker included"
    )
    console.print(f"metrics: {metrics_url}", highlight=False)
    console.print(
        "your own text, from a second terminal while the demo runs (`make demo DEMO=--keep` leaves it running):",
        highlight=False,
    )
    redis_cli = f"{_redis_cli(redis)} -p {redis.port}"
    for line in (
        f"{redis_cli} XADD gpner:documents '*' id mine text \"The captain of the Dolphin met Ada in Lisbon.\"",
        f"{redis_cli} GET gpner:result:mine",
    ):
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def _redis_cli(redis: LocalRedis) -> str:
    """The command line of Redis: by its name if it is on PATH, otherwise where the server is."""
    return "redis-cli" if shutil.which("redis-cli") else str(Path(redis.executable).with_name("redis-cli"))
