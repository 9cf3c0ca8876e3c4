"""Corpora for bulk jobs, jobs as processes, and what they leave behind."""

import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet
from rich.console import Console

from worker.bulk.options import Options
from worker.bulk.run import run


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
    silent = Console(file=io.StringIO())
    wanted = {"local": True, "quiet": True, **options}
    return run(Options([str(name) for name in inputs], str(output), **wanted), silent, silent)


def bulk_command(*arguments: object) -> list[str]:
    """What Python runs for a job as a process."""
    return ["-m", "worker.cli", "bulk", *map(str, arguments)]


def start_bulk(*arguments: object, log: Path | None = None, **environment: str) -> subprocess.Popen[bytes]:
    """Start a job in a process of its own, with the settings of this one."""
    with (log or Path(os.devnull)).open("ab") as output:
        return subprocess.Popen(
            [sys.executable, *bulk_command(*arguments)], env={**os.environ, **environment}, stdout=output, stderr=output
        )


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
