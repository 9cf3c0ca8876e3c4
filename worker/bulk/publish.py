"""What stands beside the shards when a run ends: failures.jsonl, sample.jsonl and summary.json."""

import bisect
import json
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pydantic_core

from worker.bulk.files import write_lines, write_whole
from worker.bulk.job import Job
from worker.bulk.manifests import Manifest, refusing_broken
from worker.bulk.reading import is_among
from worker.bulk.rows import Found, Row, Tally, total

SUMMARY = "summary.json"
SAMPLE_DOCUMENTS = 200
SAMPLE_BYTES = 20_000_000
# One that is larger would leave little room for others.
LONGEST_BYTES = 1_000_000

Chosen = tuple[str, bytes]


class Sample:
    """The documents whose ids have the smallest hashes, as many as there is room for.

    Attributes:
        chosen: Hash of the id and line of each, in the order of the hashes.
        limit: Greater hashes have no chance any more. Without it what is chosen would depend on who came first.
    """

    def __init__(self) -> None:
        self.chosen: list[Chosen] = []
        self.limit = "~"
        self._bytes = 0

    def offer(self, row: Row, found: Found) -> None:
        """Take a document if it is among them."""
        key = sample_key(row.id)
        if key > self.limit or len(row.text) > LONGEST_BYTES:
            return
        line = pydantic_core.to_json({"id": row.id, "text": row.text, "entities": found.entities})
        if len(line) <= LONGEST_BYTES:
            self.add((key, line))

    def add(self, chosen: Chosen) -> None:
        """Take one that was chosen before, if it still is."""
        if chosen[0] > self.limit:
            return
        bisect.insort(self.chosen, chosen)
        self._bytes += len(chosen[1])
        while len(self.chosen) > SAMPLE_DOCUMENTS or self._bytes > SAMPLE_BYTES:
            key, line = self.chosen.pop()
            self._bytes -= len(line)
            self.limit = key


def sample_key(document_id: str) -> str:
    """What decides whether a document is in the sample: the smallest are."""
    return sha256(document_id.encode("utf-8", "surrogatepass")).hexdigest()


def read_sample(job: Job) -> Sample:
    """What finished shards have given for the sample."""
    sample = Sample()
    sample.limit = min((manifest.sample_limit for manifest in job.manifests), default=sample.limit)
    for manifest in job.manifests:
        path = job.file(f"part-{manifest.number:05d}.sample.jsonl")
        for line in _lines(path):
            with refusing_broken(path):
                sample.add((sample_key(pydantic_core.from_json(line)["id"]), line))
    return sample


def publish(job: Job, *, state: str, seconds: float, tokens: int) -> tuple[dict[str, Any], Tally]:
    """Write the three files, of finished shards alone, and return the summary and its counts.

    Args:
        job: The job.
        state: `done`, or `stopped` if the same command goes on with it.
        seconds: How long this run took.
        tokens: What was read in it.
    """
    tally = total(manifest.tally for manifest in job.manifests)
    if _has_retried(job):
        tally.failures.clear()
        write_lines(job.folder / "failures.jsonl", _counted(job, tally))
    else:
        write_lines(job.folder / "failures.jsonl", (line for shard in job.manifests for line in _failed(job, shard)))
    write_lines(job.folder / "sample.jsonl", (line for _, line in read_sample(job).chosen))
    summary = {
        "state": state,
        "shards": len(job.manifests),
        **tally.to_dict(),
        "model": job.model,
        "last_run": {
            "seconds": round(seconds, 3),
            "tokens": tokens,
            "tokens_per_second": round(tokens / seconds, 1) if seconds else 0.0,
        },
    }
    text = json.dumps(summary, indent=1, ensure_ascii=False).encode("utf-8", "surrogateescape")
    write_whole(job.folder / SUMMARY, lambda file: file.write(text))
    return summary, tally


def is_done(job: Job) -> bool:
    """Whether the last run of a job has said that all is done."""
    try:
        return bool(json.loads((job.folder / SUMMARY).read_bytes())["state"] == "done")
    except (OSError, ValueError, LookupError, TypeError):  # it is written when a run ends
        return False


def count_failures(job: Job) -> int:
    """How many failures of finished shards still stand."""
    if job.retried_sources:
        return sum(1 for _ in failures(job))
    retried = (len(rows) for manifest in job.manifests for rows in (manifest.retried or {}).values())
    return sum(manifest.tally.n_failures for manifest in job.manifests) - sum(retried)


def failures(job: Job) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The failures of finished shards, each as line and object, without those that were tried again since.

    There may be very many: whoever can do with the counts of the shards does without these.
    """
    retries: dict[str, list[tuple[int, Sequence[int]]]] = {}
    for manifest in reversed(job.manifests):
        for source, rows in (manifest.retried or {}).items():
            retries.setdefault(source, []).append((manifest.number, rows))
    for manifest in job.manifests:
        for line in _failed(job, manifest):
            failure = pydantic_core.from_json(line)
            source, row = failure["source"], failure["row"]
            if row is None:
                is_retried = job.retried_sources.get(source, 0) > manifest.number
            else:
                is_retried = _is_retried(row, manifest.number, retries.get(source, ()))
            if not is_retried:
                yield line, failure


def _is_retried(row: int, shard: int, retries: Sequence[tuple[int, Sequence[int]]]) -> bool:
    for number, rows in retries:  # the last of them first
        if number <= shard:
            return False
        if rows[0] <= row <= rows[-1] and is_among(row, rows):
            return True
    return False


def _counted(job: Job, tally: Tally) -> Iterator[bytes]:
    for line, failure in failures(job):
        tally.failures[failure["reason"]["type"]] += 1
        yield line


def _has_retried(job: Job) -> bool:
    return bool(job.retried_sources) or any(manifest.retried for manifest in job.manifests)


def _failed(job: Job, shard: Manifest) -> Iterator[bytes]:
    return _lines(job.file(f"part-{shard.number:05d}.failures.jsonl"))


def _lines(path: Path) -> Iterator[bytes]:
    if path.exists():
        with path.open("rb") as file:
            yield from (line[:-1] for line in file)
