"""What stands beside the shards when a run ends: failures.jsonl, sample.jsonl and summary.json."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worker.bulk.files import write_lines, write_whole
from worker.bulk.job import Job
from worker.bulk.rows import Tally, total
from worker.bulk.sample import Sample

SUMMARY = "summary.json"


def publish(job: Job, sample: Sample, *, state: str, seconds: float, tokens: int) -> dict[str, Any]:
    """Write the three files, of finished shards alone, and return the summary.

    Args:
        job: The job.
        sample: The documents to look at.
        state: `done`, or `stopped` if the same command goes on with it.
        seconds: How long this run took.
        tokens: What was read in it.
    """
    write_lines(job.folder / "failures.jsonl", (line for line, _ in failures(job)))
    write_lines(job.folder / "sample.jsonl", (line for _, line in sample.chosen))
    summary = {
        "state": state,
        "shards": len(job.manifests),
        **tally_of(job).to_dict(),
        "model": job.model,
        "last_run": {
            "seconds": round(seconds, 3),
            "tokens": tokens,
            "tokens_per_second": round(tokens / seconds, 1) if seconds else 0.0,
        },
    }
    text = json.dumps(summary, indent=1, ensure_ascii=False).encode("utf-8", "surrogateescape")
    write_whole(job.folder / SUMMARY, lambda file: file.write(text))
    return summary


def tally_of(job: Job) -> Tally:
    """The counts of all finished shards; of failures those that still stand."""
    tally = total(manifest.tally for manifest in job.manifests)
    tally.failures.clear()
    for _, failure in failures(job):
        tally.failures[failure["reason"]["type"]] += 1
    return tally


def failures(job: Job) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The failures of finished shards, each as line and object, without those that were tried again since."""
    again: dict[tuple[str, int | None], int] = {}
    for manifest in job.manifests:
        again |= dict.fromkeys(manifest.retried or (), manifest.number)
    again |= {(name, None): shards for name, shards in job.retried_sources.items()}
    for manifest in job.manifests:
        for line in _lines(job.file(f"part-{manifest.number:05d}.failures.jsonl")):
            failure = json.loads(line)
            if again.get((failure["source"], failure["row"]), -1) <= manifest.number:
                yield line, failure


def _lines(path: Path) -> Iterator[bytes]:
    if path.exists():
        with path.open("rb") as file:
            yield from (line[:-1] for line in file)
