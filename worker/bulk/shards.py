"""The shards of the output: rows go to a journal as they come, and from there into a file when the shard is whole.

The journal is what a killed job goes on from: it holds every row of the unfinished shard that has its answer. A shard
is finished in an order that a kill cannot hurt: ids noted, file, failures, sample, manifest, and only then the journal
is deleted; whatever of it had happened is done again, with the same result.
"""

import os
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pydantic_core

from worker.bulk.files import output_schema, write_jsonl, write_lines, write_parquet, write_whole
from worker.bulk.job import Job
from worker.bulk.manifests import Manifest
from worker.bulk.publish import read_sample
from worker.bulk.rows import Answer, Block, Found, Item, Position, Problem, Row, Tally
from worker.bulk.seen import SeenIds

# The first byte of a journal's line: an answer, or a problem.
FOUND, FAILED = b"+", b"-"


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
        self._seen.commit()
        write_whole(self._job.folder / f"part-{number:05d}.{self._format}", self._write_rows)
        if self.tally.n_failures:
            write_lines(self._job.file(f"part-{number:05d}.failures.jsonl"), self._lines(FAILED))
        if new := [line for key, line in self.sample.chosen if key not in self._sampled_before]:
            write_lines(self._job.file(f"part-{number:05d}.sample.jsonl"), new)
        retried = self._retried if self._retry else None
        self._job.finish(Manifest(number, self._items, self._end, self._ended, self.tally, self.sample.limit, retried))
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
                lines += [FAILED, answer.line(), b"\n"]
            elif isinstance(item, Row):
                lines += [FOUND, answer.line(item), b"\n"]
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
                    yield line[1:-1]


def _read_journal(path: Path) -> Iterator[bytes]:
    if path.exists():
        with path.open("rb") as journal:
            yield from journal


def _answer(line: bytes, item: Item) -> Answer | None:
    """The answer that a journal's line holds; None if it belongs to another item, or is broken."""
    try:
        found = pydantic_core.from_json(line[1:])
        if not line.endswith(b"\n") or (found["source"], found["row"]) != (item.source, item.row):
            return None
        if line.startswith(FAILED):
            return Problem(found["id"], item.source, item.row, found["reason"]["type"], found["reason"]["message"])
        return Found(*(found[name] for name in ("entities", "tokens", "windows", "model", "revision")))
    except (ValueError, LookupError, TypeError):
        return None
