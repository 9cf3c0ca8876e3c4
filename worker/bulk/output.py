"""What a job writes: shards, and beside them failures.jsonl, sample.jsonl and summary.json when a run ends.

Rows go to a journal as they come, and from there into a file when the shard is whole. The journal is what a killed job
goes on from: it holds every row of the unfinished shard that has its answer. A shard is finished in an order that a
kill cannot hurt: ids noted, file, failures, sample, manifest, and only then the journal is deleted; whatever of it had
happened is done again, with the same result.
"""

import bisect
import json
import os
from array import array
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO
from zlib import crc32

import pydantic_core

from worker.bulk.files import output_schema, write_jsonl, write_lines, write_parquet, write_whole
from worker.bulk.job import Job
from worker.bulk.manifests import FAILURES, SAMPLE, Manifest, lines_beside, path_beside, refusing_broken
from worker.bulk.reading import is_among
from worker.bulk.rows import Answer, Block, Found, Item, Position, Problem, Row, Tally, total
from worker.bulk.seen import SeenIds

# A journal's line is one of these bytes, for an answer or a problem, the mark of both, and the output's line.
FOUND, FAILED = b"+", b"-"
MARK_BYTES = 8
SUMMARY = "summary.json"
SAMPLE_DOCUMENTS = 200
SAMPLE_BYTES = 20_000_000
# One that is larger would leave little room for others.
LONGEST_BYTES = 1_000_000

Chosen = tuple[str, bytes]


class Shards:
    """Writes the shards of one run, in order.

    Args:
        job: What they belong to.
        seen: Ids that must be on the disk before a shard counts.
        retry: Whether these are shards of retried failures; their journal is another than the ordinary one.

    Attributes:
        tally: Counts of the unfinished shard.
        sample: The documents to look at so far.
    """

    def __init__(self, job: Job, seen: SeenIds, *, retry: bool) -> None:
        self._job = job
        self._seen = seen
        self._schema = output_schema(job.kept)
        self._retry = retry
        self._format = job.options["format"]
        self.sample = read_sample(job)
        self._journal: BinaryIO | None = None
        self._begin()
        for path in job.file("").glob("retry-*.journal"):
            if path != self._journal_path:
                path.unlink()  # its shard is finished, or the failures of which it was are others now
        self._replayed = _read_journal(self._journal_path)

    def known(self, block: Block) -> Sequence[Answer] | None:
        """The answers to a block that the journal holds from an earlier run; None if it does not hold all of them."""
        answers = []
        size = 0
        for item in block.items:
            line = next(self._replayed, None)
            answer = None if line is None else _answer(line, item)
            if line is None or answer is None:
                self._replayed = iter(())
                return None
            answers.append(answer)
            size += len(line)
        self._journal_bytes += size
        return answers

    def write(self, block: Block, answers: Sequence[Answer], *, known: bool = False) -> None:
        """Take a block with its answers; those that are `known` stand in the journal already."""
        if not known:
            self._append(block.items, answers)
        for item, answer in zip(block.items, answers, strict=True):
            self.tally.add(answer)
            if isinstance(item, Row) and isinstance(answer, Found):
                self.sample.offer(item, answer)
            if block.again and item.row is not None:
                self._retried.setdefault(item.source, array("q")).append(item.row)
        self._items += len(block.items)
        self._end = block.end
        self._ended |= block.ended
        if block.full:
            self.seal()

    def seal(self) -> None:
        """Finish the shard, if there is anything in it."""
        if not self._items:
            return
        self._close_journal()
        os.truncate(self._journal_path, self._journal_bytes)  # an earlier run may have gone further, without a limit
        number = len(self._job.manifests)
        self._seen.commit(number + 1)
        write_whole(self._job.folder / f"part-{number:05d}.{self._format}", self._write_rows)
        beside = {}
        if self.tally.n_failures:
            beside[FAILURES] = write_lines(path_beside(self._job.file(""), number, FAILURES), self._lines(FAILED))
        if new := [line for key, line in self.sample.chosen if key not in self._sampled_before]:
            beside[SAMPLE] = write_lines(path_beside(self._job.file(""), number, SAMPLE), new)
        self._job.finish(
            Manifest(
                number,
                self._items,
                self._end,
                self._ended,
                self.tally,
                self.sample.limit,
                self._retried if self._retry else None,
                beside,
            )
        )
        self._journal_path.unlink()
        self._begin()

    def close(self) -> None:
        """Leave the unfinished shard to the next run."""
        self._close_journal()

    def _begin(self) -> None:
        # One of retries has its shard's number: what was tried before must not be taken for this time's answers.
        name = f"retry-{len(self._job.manifests):05d}" if self._retry else "open"
        self._journal_path = self._job.file(f"{name}.journal")
        self.tally = Tally()
        self._items = 0
        self._end = self._job.position
        self._ended: dict[int, Position] = {}
        self._retried: dict[str, array[int]] = {}
        self._sampled_before = {key for key, _ in self.sample.chosen}
        self._journal_bytes = 0

    def _append(self, items: Sequence[Item], answers: Sequence[Answer]) -> None:
        if self._journal is None:
            self._replayed = iter(())
            self._journal = self._journal_path.open("ab")
            # A kill may have left half a line, or a few lines of a block.
            self._journal.truncate(self._journal_bytes)
        lines = []
        for item, answer in zip(items, answers, strict=True):
            if isinstance(answer, Problem):
                line = answer.line()
                lines += [FAILED, _mark(item, line), line, b"\n"]
            elif isinstance(item, Row):
                line = answer.line(item)
                lines += [FOUND, _mark(item, line), line, b"\n"]
        self._journal_bytes += self._journal.write(b"".join(lines))
        self._journal.flush()

    def _close_journal(self) -> None:
        if self._journal is not None:
            os.fsync(self._journal.fileno())
            self._journal.close()
            self._journal = None

    def _write_rows(self, file: BinaryIO) -> None:
        if self._format == "parquet":
            write_parquet(file, self._lines(FOUND), self._schema)
        else:
            write_jsonl(file, self._lines(FOUND), self._format)

    def _lines(self, kind: bytes) -> Iterator[bytes]:
        with self._journal_path.open("rb") as journal:
            for line in journal:
                if line.startswith(kind):
                    yield line[1 + MARK_BYTES : -1]


def _read_journal(path: Path) -> Iterator[bytes]:
    if path.exists():
        with path.open("rb") as journal:
            yield from journal


def _mark(item: Item, line: bytes) -> bytes:
    """Tells whether an item is still the one that was answered with this line: half a line of it may have been read."""
    if isinstance(item, Problem):
        content = item.line()
    else:
        words = (item.source, item.row, item.id, item.text, item.kept)
        content = "\0".join(map(str, words)).encode("utf-8", "surrogatepass")
    return b"%0*x" % (MARK_BYTES, crc32(line, crc32(content)))


def _answer(line: bytes, item: Item) -> Answer | None:
    """The answer that a journal's line holds; None if it belongs to another item, or is broken."""
    mark, content = line[1 : 1 + MARK_BYTES], line[1 + MARK_BYTES : -1]
    if not line.endswith(b"\n") or mark != _mark(item, content):
        return None
    try:
        found = pydantic_core.from_json(content)
        if line.startswith(FAILED):
            return Problem(found["id"], item.source, item.row, found["reason"]["type"], found["reason"]["message"])
        return Found(*(found[name] for name in ("entities", "tokens", "windows", "model", "revision")))
    except (ValueError, LookupError, TypeError):
        return None


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
        with refusing_broken(path_beside(job.file(""), manifest.number, SAMPLE)):
            for line in lines_beside(job.file(""), manifest, SAMPLE):
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
        failed = (line for shard in job.manifests for line in lines_beside(job.file(""), shard, FAILURES))
        write_lines(job.folder / "failures.jsonl", failed)
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
        for line in lines_beside(job.file(""), manifest, FAILURES):
            with refusing_broken(path_beside(job.file(""), manifest.number, FAILURES)):
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
