"""Corpora for bulk jobs, jobs as processes, and what they leave behind."""

import hashlib
import io
import json
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet
from rich.console import Console

from worker.bulk.options import Options
from worker.bulk.run import run
from worker.cli import main

# Starts processes of jobs in milliseconds: it has imported all that they need.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pytest", "tests.bulk_tools", "tests.engines"])


def row(number: int, words: int = 6) -> dict[str, Any]:
    """A document in which the test engine finds something."""
    return {"id": f"doc-{number}", "text": f"ROW {number} " + "some LONGER words " * words, "year": 1900 + number}


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), "utf-8")
    return path


def write_parquet(path: Path, rows: Sequence[dict[str, Any]], **options: Any) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path, **options)
    return path


def bulk(output: Path | str, *inputs: Path | str, **options: Any) -> int:
    """Run a job in this process; returns its exit code."""
    return told(output, *inputs, **{"quiet": True, **options})[0]


def told(output: Path | str, *inputs: Path | str, **options: Any) -> tuple[int, str]:
    """Run a job in this process, or a dry run; returns its exit code and what it says."""
    words = io.StringIO()
    console = Console(file=words, width=200)
    wanted = Options([str(name) for name in inputs], str(output), **{"local": True, **options})
    return run(wanted, console, console), words.getvalue()


def bulk_command(*arguments: object) -> list[str]:
    """What Python runs for a job as a process."""
    return ["-m", "worker.cli", "bulk", *map(str, arguments)]


class BulkProcess:
    """A job in a process of its own, whose files may not become larger than `file_bytes`."""

    def __init__(
        self, *arguments: object, log: Path | None = None, file_bytes: int | None = None, **environment: str
    ) -> None:
        command = ["bulk", *map(str, arguments)]
        settings = {**os.environ, **environment}
        place = Path.cwd(), log or Path(os.devnull)
        place[1].touch()
        self._process = PROCESSES.Process(target=_run, args=(command, settings, *place, file_bytes))
        self._process.start()

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, seconds: float = 30.0) -> int:
        """Its exit code; that of a signal is negative."""
        self._process.join(seconds)
        assert self._process.exitcode is not None, f"it still runs after {seconds} s"
        return self._process.exitcode


def _run(command: Sequence[str], settings: dict[str, str], folder: Path, log: Path, file_bytes: int | None) -> None:
    os.environ.clear()
    os.environ.update(settings)
    os.chdir(folder)
    with log.open("ab") as output:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(output.fileno(), stream.fileno())
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    sys.exit(main(command))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """All rows of all shards, in order."""
    rows: list[dict[str, Any]] = []
    for shard in sorted(folder.glob("part-*")):
        if shard.suffix == ".parquet":
            rows += parquet.read_table(shard).to_pylist()
        else:
            compression = {".gz": "gzip", ".zst": "zstd"}.get(shard.suffix)
            with pyarrow.input_stream(shard, compression=compression) as stream:
                rows += [json.loads(line) for line in stream.read().splitlines()]
    return rows


def failures_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "failures.jsonl").read_text("utf-8").splitlines()]


def summary_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "summary.json").read_text("utf-8"))


def digests(folder: Path) -> dict[str, str]:
    """A hash of every file of an output, apart from the summary, which holds times."""
    files = [path for path in folder.iterdir() if path.is_file() and path.name != "summary.json"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
