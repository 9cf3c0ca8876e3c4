"""What somebody has spoilt in the folder of a job: it is made again, or named; never is the output another."""

import gzip
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpner.errors import ConfigError
from tests.bulk_tools import BulkProcess, bulk, digests, failures_of, row, rows_of, told, write_jsonl
from tests.workers import wait_until
from worker.bulk.exit_codes import DONE_WITH_FAILURES, STOPPED
from worker.bulk.files import write_lines
from worker.bulk.inputs import File, Source
from worker.bulk.reading import Part, Reading
from worker.bulk.seen import SeenIds
from worker.bulk.tables import Columns

ROWS = [row(number) for number in range(25)]
OUT = Path("out")
COMMON = {"format": "jsonl", "shard_documents": 10}
GARBAGE = random.Random(1).randbytes(100_000)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite(path: Path) -> None:
    """Garbage of the same length in the middle."""
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + GARBAGE[: len(content) - half])


def alter(path: Path) -> None:
    """Another digit, so that it reads as well as before."""
    content = path.read_bytes()
    at = max(content.rfind(str(digit).encode()) for digit in range(9))
    path.write_bytes(content[:at] + bytes([content[at] + 1]) + content[at + 1 :])


DAMAGE: list[Callable[[Path], object]] = [
    Path.unlink,
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(GARBAGE),
    cut_off,
    overwrite,
]
DAMAGE_NAMES = ["missing", "empty", "garbage", "cut off", "overwritten"]


def long_job(folder: Path) -> tuple[Path, Path]:
    """A job whose first source grew, whose second broke and was read on later, with ids that stand in both."""
    rows = [{"id": f"doc-{number}", "text": f"ROW {number:0900d}"} for number in range(5_000)]
    first, second = write_jsonl(folder / "a.jsonl", rows[4990:]), folder / "b.jsonl.gz"
    whole = gzip.compress("".join(json.dumps(each) + "\n" for each in rows).encode(), mtime=0)
    second.write_bytes(whole[: len(whole) // 2])
    common = {"format": "jsonl", "shard_documents": 1000}
    bulk(OUT, first, second, **common)
    with first.open("a") as file:
        file.writelines(json.dumps(each) + "\n" for each in (rows[0], rows[4980], row(5_001)))
    bulk(OUT, first, second, **common)
    second.write_bytes(whole)
    bulk(OUT, first, second, **common, retry_failures=True)
    write_jsonl(folder / "c.jsonl", [*rows[4975:4995], row(5_001), row(5_002)])
    return first, second


@pytest.mark.parametrize("damage", DAMAGE, ids=DAMAGE_NAMES)
def test_ids_that_are_lost_are_read_again_and_the_output_is_what_it_would_have_been(tmp_path, damage):
    inputs = (*long_job(tmp_path), tmp_path / "c.jsonl")
    shutil.copytree(OUT, "whole")
    common = {"format": "jsonl", "shard_documents": 1000, "quiet": False}
    code, words = told("whole", *inputs, **common)
    assert code == DONE_WITH_FAILURES
    assert "reading them again" not in words

    damage(OUT / ".job" / "seen.sqlite")
    code, words = told(OUT, *inputs, **common)

    assert code == DONE_WITH_FAILURES
    assert "seen.sqlite does not hold the ids of all that was read: reading them again" in words
    assert digests(OUT) == digests(Path("whole"))
    problems = [(Path(each["source"]).name, each["reason"]["message"].split()[-2]) for each in failures_of(OUT)]
    assert {name for name, _ in problems} == {"a.jsonl", "b.jsonl.gz", "c.jsonl"}, "doubles in each were found"
    code, words = told(OUT, *inputs, **common)
    assert "reading them again" not in words, "once is enough"


def test_ids_that_only_the_log_of_a_killed_job_had_are_read_again_without_it(tmp_path):
    rows = [*ROWS, *({"id": "slow", "text": "word"} for _ in range(300))]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows)
    command = (corpus, "--output", OUT, "--local", "--format", "jsonl", "--shard-documents", 10)
    job = BulkProcess(*command, GPNER_ENGINE="tests.engines:load_slow", GPNER_MAX_BATCH_TOKENS="10")
    wait_until(lambda: len(list(OUT.glob(".job/part-?????.json"))) > 3, 30)
    job.kill()
    job.wait()

    (OUT / ".job" / "seen.sqlite-wal").unlink()
    assert bulk(OUT, corpus, **COMMON) == DONE_WITH_FAILURES

    assert bulk("undisturbed", corpus, **COMMON) == DONE_WITH_FAILURES
    assert digests(OUT) == digests(Path("undisturbed"))


def test_ids_are_read_again_where_the_last_source_is_broken(tmp_path):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", ROWS)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no more")
    assert bulk(OUT, corpus, tmp_path / "broken.parquet", **COMMON) == DONE_WITH_FAILURES
    before = digests(OUT)

    (OUT / ".job" / "seen.sqlite").unlink()

    assert bulk(OUT, corpus, tmp_path / "broken.parquet", **COMMON) == DONE_WITH_FAILURES
    assert digests(OUT) == before


def test_a_job_that_is_refused_when_its_ids_are_lost_leaves_nothing_open(tmp_path):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [row(number) for number in range(2_000)])
    bulk(OUT, corpus, **COMMON)
    content = corpus.read_bytes()
    half = content.index(b"\n", len(content) // 2)
    corpus.write_bytes(content[:half] + b" " + content[half + 1 :])  # two rows are one broken line
    (OUT / ".job" / "seen.sqlite").unlink()

    with pytest.raises(ConfigError, match=r"the ids of .* are lost") as refused:
        bulk(OUT, corpus, **COMMON)

    assert refused.value
    assert not [path for path in Path("/proc/self/fd").iterdir() if "seen.sqlite" in os.path.realpath(path)]


@pytest.mark.parametrize(("name", "reached"), [("-", 0), ("corpus.jsonl", 25)])
def test_ids_that_cannot_be_read_again_are_named(tmp_path, name, reached):
    """Of standard input, which is read once, and of a file that can be read less far than before."""
    write_jsonl(tmp_path / "corpus.jsonl", ROWS)
    reading = Reading(
        [Part(Source(name, "jsonl", (File(name, Path(name).stat().st_size if reached else 0),)))],
        Columns("text", "id"),
        SeenIds(None),
        shard_items=10,
        max_document_characters=1000,
    )

    with pytest.raises(
        ConfigError, match=f"the ids of {name} are lost, .* up to item 30 .* up to {reached}; .* afresh"
    ):
        reading.note([(0, 0, 30)])


@pytest.mark.parametrize("retry", [False, True])
@pytest.mark.parametrize("damage", [*DAMAGE, alter], ids=[*DAMAGE_NAMES, "altered"])
@pytest.mark.parametrize(
    "name", ["job.json", "part-00000.json", "part-00000.sample.jsonl", "part-00000.failures.jsonl"]
)
def test_what_cannot_be_made_again_is_named(tmp_path, name, damage, retry):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", ["broken", *ROWS])
    assert bulk(OUT, corpus, **COMMON) == DONE_WITH_FAILURES
    files = {path: path.read_bytes() for path in OUT.glob("[!.]*")}
    with corpus.open("a") as file:
        file.write(json.dumps(row(100)) + "\n")

    damage(OUT / ".job" / name)

    words = (
        r"(must be (what a bulk job wrote|there)|that of shard 0 is missing).*; restore it from a copy, or begin afresh"
    )
    for _ in range(2):
        with pytest.raises(ConfigError, match=words):
            bulk(OUT, corpus, **COMMON, retry_failures=retry)
    assert {path: path.read_bytes() for path in OUT.glob("[!.]*")} == files, "found before anything was done"


@pytest.mark.parametrize("damage", [*DAMAGE, alter], ids=[*DAMAGE_NAMES, "altered"])
def test_answers_of_an_unfinished_shard_that_are_lost_are_found_again(tmp_path, damage):
    rows = [{"id": "a", "text": "!raise"}, *ROWS[:8]]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows)
    assert bulk(OUT, corpus, **COMMON, max_failures=0) == STOPPED
    journal = OUT / ".job" / "open.journal"
    assert len(journal.read_bytes().splitlines()) == len(rows)

    damage(journal)

    assert bulk(OUT, corpus, **COMMON) == DONE_WITH_FAILURES
    assert bulk("undisturbed", corpus, **COMMON) == DONE_WITH_FAILURES
    assert digests(OUT) == digests(Path("undisturbed"))
    assert [each["id"] for each in rows_of(OUT)] == [each["id"] for each in ROWS[:8]]


def test_a_file_that_cannot_be_written_whole_stays_as_it_was(tmp_path):
    path = tmp_path / "failures.jsonl"
    write_lines(path, [b"before"])

    def broken() -> Iterator[bytes]:
        yield b"after"
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        write_lines(path, broken())

    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"failures.jsonl": b"before\n"}
