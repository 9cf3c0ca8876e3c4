"""A job that is stopped, in order or with kill -9 at any moment, and gone on with, ends as if nothing had been."""

import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.bulk_tools import BulkProcess, bulk, digests, rows_of, summary_of, write_jsonl
from tests.workers import wait_until
from worker.bulk.exit_codes import DONE, DONE_WITH_FAILURES, STOPPED
from worker.engine import Engine
from worker.settings import Settings

KILLS = 50

pytestmark = pytest.mark.integration


def make_corpus(folder: Path, documents: int) -> Path:
    """Small documents, a few of which fail, each in one of three ways."""
    rows = [{"id": f"doc-{number}", "text": f"WORD {number}", "year": number} for number in range(documents)]
    for number in range(50, documents, 101):
        rows[number]["text"] = "!raise"
        rows[number + 1]["id"] = "doc-3"
        del rows[number + 2]["text"]
    return write_jsonl(folder / "corpus.jsonl", rows)


def start(out: str, corpus: Path, engine: str = "load_capitals", *flags: str) -> BulkProcess:
    # Small packs and shards: it makes progress in small steps.
    settings = {"GPNER_ENGINE": f"tests.engines:{engine}", "GPNER_MAX_BATCH_TOKENS": "10"}
    command = (corpus, "--output", out, "--local", "--shard-documents", 20, "--keep", "year", *flags)
    return BulkProcess(*command, log=Path(f"{out}.log"), **settings)


def finish(out: str, corpus: Path) -> int:
    """Run the same job to its end, in this process."""
    return bulk(out, corpus, shard_documents=20, keep=["year"])


def start_at_work(out: str, corpus: Path) -> BulkProcess:
    """A run that has read what earlier ones left, and now begins to work."""
    job_file = Path(out, ".job", "job.json")
    before = job_file.stat().st_mtime_ns if job_file.exists() else 0
    job = start(out, corpus)
    wait_until(lambda: job_file.exists() and job_file.stat().st_mtime_ns != before, 30)
    return job


def shards(out: str) -> int:
    return len(list(Path(out).glob(".job/part-?????.json")))


def wait_for_shards(out: str, count: int) -> None:
    wait_until(lambda: shards(out) >= count, 30)


def lying_in(folder: Path) -> str:
    """What a killed job has left besides finished shards."""
    left = {path.suffix for path in folder.rglob("*")}
    if ".unfinished" in left:
        return "an unfinished file"
    return "rows of an unfinished shard" if ".journal" in left else "neither"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_finishes_what_is_under_way_and_the_same_command_goes_on(tmp_path, number):
    corpus = make_corpus(tmp_path, 400)
    finish("undisturbed", corpus)
    job = start("out", corpus, "load_slow")
    wait_until(lambda: shards("out") > 1, 30)

    job.send_signal(number)

    assert job.wait(30) == STOPPED
    log = Path("out.log").read_text()
    assert f"stopped by {number.name}: finishing what is under way; once more stops at once" in log
    assert "the same command goes on from here" in log
    assert summary_of(Path("out"))["state"] == "stopped"
    assert 0 < summary_of(Path("out"))["documents"] == len(rows_of(Path("out"))) < 360
    assert finish("out", corpus) == DONE_WITH_FAILURES
    assert digests(Path("out")) == digests(Path("undisturbed"))


def load_for_ever(settings: Settings) -> Engine:
    """What a large model does, until somebody has enough."""
    Path("loading").touch()
    time.sleep(3600)
    raise AssertionError("no signal came")


@pytest.mark.parametrize(
    ("output", "next_step"), [("out", "; the same command goes on"), ("-", "")], ids=["job", "standard output"]
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_model_is_loaded_stops_at_once_and_says_what_goes_on(tmp_path, number, output, next_step):
    corpus = make_corpus(tmp_path, 40)
    job = BulkProcess(corpus, "--output", output, "--local", log=Path("log"), GPNER_ENGINE=f"{__name__}:load_for_ever")
    wait_until(lambda: Path("loading").exists(), 30)

    job.send_signal(number)

    assert job.wait() == STOPPED
    assert Path("log").read_text() == f"stopped by {number.name}{next_step}\n"
    assert finish("out", corpus) == DONE


def test_what_was_under_way_at_a_stop_is_not_done_again(tmp_path):
    # So long that ten of them are a step of the job.
    rows = [{"id": str(number), "text": f"WORD {25_000 * 'x'}"} for number in range(300)]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows)
    command = (corpus, "--output", "out", "--local", "--format", "jsonl")
    job = BulkProcess(*command, GPNER_ENGINE="tests.engines:load_slow", GPNER_MAX_BATCH_TOKENS="10")
    wait_until(lambda: Path("out/.job/open.journal").exists(), 30)

    job.send_signal(signal.SIGTERM)
    job.wait(30)

    done = Path("out/.job/open.journal").read_bytes().count(b"\n")
    assert 10 <= done < 300
    again = BulkProcess(*command, "--limit", done, GPNER_ENGINE="tests.engines:load_broken")
    assert again.wait(30) == DONE, "an engine that fails on everything was not asked for anything"
    assert len(rows_of(Path("out"))) == done


def test_the_second_signal_stops_at_once(tmp_path):
    corpus = make_corpus(tmp_path, 400)
    job = start("out", corpus, "load_slow")
    wait_until(lambda: shards("out") > 1, 30)

    job.send_signal(signal.SIGINT)
    wait_until(lambda: "finishing what is under way" in Path("out.log").read_text())
    job.send_signal(signal.SIGINT)

    assert job.wait(2) == STOPPED
    assert "stopped: at once; the same command goes on from here" in Path("out.log").read_text()
    assert finish("out", corpus) == DONE_WITH_FAILURES
    finish("undisturbed", corpus)
    assert digests(Path("out")) == digests(Path("undisturbed"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_fifty_times_at_random_moments_the_output_is_the_undisturbed_one(tmp_path):
    corpus = make_corpus(tmp_path, 6_000)
    undisturbed = start_at_work("undisturbed", corpus)
    began = time.monotonic()
    assert undisturbed.wait(100) == DONE_WITH_FAILURES
    shard_seconds = (time.monotonic() - began) / shards("undisturbed")
    lives = random.Random(20)
    steps = []
    left: Counter[str] = Counter()

    for _ in range(KILLS):
        job = start_at_work("out", corpus)
        # All lives together finish about a third of the shards, however busy the machine is.
        wait_for_shards("out", shards("out") + lives.randrange(5))
        time.sleep(lives.uniform(0, shard_seconds))
        job.kill()
        assert job.wait() == -signal.SIGKILL, "it ended before it could be killed"
        steps.append(shards("out"))
        left[lying_in(Path("out"))] += 1
    assert finish("out", corpus) == DONE_WITH_FAILURES

    sys.stdout.write(f"\nafter {KILLS} kills there lay {dict(left)}; shards finished: {steps[-1]} of {shards('out')}\n")
    assert len(set(steps)) > KILLS // 4, "many runs made progress"
    assert digests(Path("out")) == digests(Path("undisturbed"))
    ids = [each["id"] for each in rows_of(Path("out"))]
    assert len(ids) == len(set(ids)) == summary_of(Path("out"))["documents"]
    assert [path for path in Path("out").rglob("*") if path.suffix in (".unfinished", ".journal")] == []
