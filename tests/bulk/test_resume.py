"""The same command again: what it goes on with, what it adds, what it refuses, what it tries once more."""

import gzip
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from gpner.errors import ConfigError
from tests.bulk_tools import (
    bulk,
    bulk_command,
    digests,
    failures_of,
    row,
    rows_of,
    summary_of,
    write_jsonl,
    write_parquet,
)
from worker.bulk.job import Job
from worker.bulk.options import DONE, DONE_WITH_FAILURES, STOPPED

ROWS = [row(number) for number in range(25)]
OUT = Path("out")
COMMON = {"format": "jsonl", "shard_documents": 10}


def ids() -> list[str]:
    return [each["id"] for each in rows_of(OUT)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "corpus.jsonl", ROWS)


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as file:
        file.write(content)


def lines(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(each) + "\n" for each in rows).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "parquet"}, '--format "jsonl", not "parquet"'),
        ({"shard_documents": 11}, "--shard-documents 10, not 11"),
        ({"text_field": "id"}, '--text-field "text", not "id"'),
        ({"id_field": "year"}, '--id-field "id", not "year"'),
        ({"keep": ["year"]}, r'--keep \[\], not \["year"\]'),
    ],
)
def test_other_options_are_refused_with_what_differs_and_how_to_begin_afresh(corpus, change, message):
    bulk(OUT, corpus, **COMMON)
    before = digests(OUT)

    with pytest.raises(ConfigError, match=f"was begun with {message}; give what .*begin afresh with another --output"):
        bulk(OUT, corpus, **{**COMMON, **change})

    assert digests(OUT) == before


def test_input_that_is_missing_or_has_changed_is_refused(corpus, tmp_path):
    other = write_jsonl(tmp_path / "other.jsonl", [row(100)])
    bulk(OUT, corpus, other, **COMMON)

    with pytest.raises(ConfigError, match=r"was begun with the input .*other\.jsonl, it is not given"):
        bulk(OUT, corpus, **COMMON)
    write_jsonl(other, [row(101)])
    with pytest.raises(ConfigError, match=r"may only have grown, .*other\.jsonl has changed"):
        bulk(OUT, corpus, other, **COMMON)
    other.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"other\.jsonl has changed \(was \d+ long, is 0\)"):
        bulk(OUT, corpus, other, **COMMON)


def test_another_model_is_refused(corpus, monkeypatch):
    monkeypatch.setenv("GPNER_ENGINE", "tests.engines:load_named")
    monkeypatch.setenv("GPNER_MODEL", "first")
    bulk(OUT, corpus, **COMMON, limit=10)

    monkeypatch.setenv("GPNER_MODEL", "second")
    with pytest.raises(ConfigError, match=r"begun with first \(.*\) and now answers come from second"):
        bulk(OUT, corpus, **COMMON)


def test_a_folder_of_something_else_and_one_that_is_in_use_are_refused(corpus, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()

    with pytest.raises(ConfigError, match="must be new, empty, or the folder of a bulk job"):
        bulk("full", corpus, **COMMON)
    job = Job.open(OUT, {}, [])
    with pytest.raises(ConfigError, match="another one does; wait for its end"):
        bulk(OUT, corpus, **COMMON)
    job.close()


@pytest.mark.integration
def test_a_summary_that_says_done_does_not_outlive_the_beginning_of_another_run(corpus):
    assert bulk(OUT, corpus, **COMMON) == DONE
    assert summary_of(OUT)["state"] == "done"
    append(corpus, lines([{"id": "last", "text": "this ends the process: !crash"}]))
    command = bulk_command(corpus, "--output", OUT, "--local", "--format", "jsonl", "--shard-documents", "10")

    killed = subprocess.run([sys.executable, *command], capture_output=True, check=False, timeout=60)

    assert killed.returncode < 0
    assert not (OUT / "summary.json").exists()


def test_input_that_has_grown_adds_shards_and_leaves_finished_ones_alone(corpus, tmp_path):
    second = write_jsonl(tmp_path / "second.jsonl", [row(100)])
    bulk(OUT, corpus, second, **COMMON)
    before = digests(OUT)

    append(corpus, lines([row(25)]))
    append(second, lines([row(101)]))
    third = write_jsonl(tmp_path / "third.jsonl", [row(200)])
    assert bulk(OUT, corpus, second, third, **COMMON) == DONE

    assert ids() == [*(each["id"] for each in ROWS), *(f"doc-{number}" for number in (100, 101, 25, 200))]
    after = digests(OUT)
    assert {name: after[name] for name in before if name.startswith("part-")} == {
        name: digest for name, digest in before.items() if name.startswith("part-")
    }
    assert [each["row"] for each in rows_of(OUT) if each["id"] == "doc-25"] == [26]


def test_a_limit_can_be_raised_and_lifted(corpus):
    for limit in (3, 3, 12, None):
        assert bulk(OUT, corpus, **COMMON, limit=limit) == DONE
        assert ids() == [each["id"] for each in ROWS[:limit]]


def test_an_id_that_was_seen_before_the_stop_is_a_duplicate_after_it(corpus):
    bulk(OUT, corpus, **COMMON)
    append(corpus, lines([ROWS[3], row(99)]))

    assert bulk(OUT, corpus, **COMMON) == DONE_WITH_FAILURES

    (failure,) = failures_of(OUT)
    assert (failure["id"], failure["row"], failure["reason"]["type"]) == ("doc-3", 26, "DuplicateId")
    assert ids() == [*(each["id"] for each in ROWS), "doc-99"]


def test_failures_alone_are_tried_again(tmp_path, monkeypatch):
    rows = [row(number) for number in range(6)] + [ROWS[0]]
    for number in (1, 4):
        rows[number]["text"] += " !raise"
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows)
    assert bulk(OUT, corpus, **COMMON) == DONE_WITH_FAILURES
    first = digests(OUT)["part-00000.jsonl"]

    assert bulk(OUT, corpus, **COMMON) == DONE_WITH_FAILURES
    assert len(list(OUT.glob("part-*"))) == 1, "without --retry-failures nothing is tried again"

    monkeypatch.setenv("GPNER_ENGINE", "tests.engines:load_noop")
    assert bulk(OUT, corpus, **COMMON, retry_failures=True) == DONE_WITH_FAILURES
    assert digests(OUT)["part-00000.jsonl"] == first
    assert [each["id"] for each in rows_of(OUT)] == ["doc-0", "doc-2", "doc-3", "doc-5", "doc-1", "doc-4"]
    assert [each["reason"]["type"] for each in failures_of(OUT)] == ["DuplicateId"]
    assert summary_of(OUT)["documents"] == 6
    assert summary_of(OUT)["failures"] == {"DuplicateId": 1}


def test_what_fails_again_stays_one_failure(tmp_path):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"id": "a", "text": "!raise"}, row(1)])
    bulk(OUT, corpus, **COMMON)

    for _ in range(3):
        assert bulk(OUT, corpus, **COMMON, retry_failures=True, max_failures=1) == DONE_WITH_FAILURES

        assert [each["id"] for each in failures_of(OUT)] == ["a"]
        assert summary_of(OUT)["documents"] == 1


def test_a_source_that_broke_is_read_on_from_there_when_it_is_retried(tmp_path):
    many = [row(number) for number in range(30_000)]
    path = tmp_path / "corpus.jsonl.gz"
    whole = gzip.compress(lines(many), mtime=0)
    path.write_bytes(whole[: len(whole) // 2])
    common = {"format": "jsonl", "shard_documents": 5000}
    assert bulk(OUT, path, **common) == DONE_WITH_FAILURES
    got = len(ids())
    assert 0 < got < 30_000
    assert [each["reason"]["type"] for each in failures_of(OUT)] == ["BrokenSource"]

    path.write_bytes(whole)
    assert bulk(OUT, path, **common, retry_failures=True) == DONE

    assert ids() == [each["id"] for each in many]
    assert failures_of(OUT) == []


def test_a_source_that_cannot_be_opened_costs_the_others_nothing_and_can_be_retried(tmp_path):
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(b"PAR1 no more")
    good = write_parquet(tmp_path / "good.parquet", ROWS)

    assert bulk(OUT, bad, good, **COMMON) == DONE_WITH_FAILURES
    assert bulk(OUT, bad, good, **COMMON, retry_failures=True) == DONE_WITH_FAILURES

    assert ids() == [each["id"] for each in ROWS]
    assert [(each["source"], each["row"]) for each in failures_of(OUT)] == [(str(bad), None)]


def test_strict_stops_at_the_first_broken_row_and_the_job_goes_on_without_it(tmp_path):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [*ROWS, "broken", row(77)])

    assert bulk(OUT, corpus, **COMMON, strict=True) == STOPPED
    assert summary_of(OUT)["state"] == "stopped"
    assert ids() == [each["id"] for each in ROWS[:20]], "whole shards alone"

    assert bulk(OUT, corpus, **COMMON) == DONE_WITH_FAILURES
    assert ids() == [*(each["id"] for each in ROWS), "doc-77"]


def test_more_failures_than_allowed_stop_the_job_and_a_higher_limit_lets_it_go_on(tmp_path):
    rows = [{"id": str(number), "text": "!raise" if number < 300 else "ABC"} for number in range(40_000)]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows)
    common = {"format": "jsonl", "shard_documents": 1000}

    assert bulk(OUT, corpus, **common, max_failures=299) == STOPPED
    assert summary_of(OUT)["documents"] < 39_700

    assert bulk(OUT, corpus, **common, max_failures=300) == DONE_WITH_FAILURES
    assert len(failures_of(OUT)) == 300
    assert len(ids()) == 39_700


@pytest.mark.parametrize("file_bytes", [4096, 200_000])
def test_a_disk_without_room_stops_the_job_and_it_goes_on_when_there_is_some(tmp_path, file_bytes):
    rows = [row(number, words=1000) for number in range(50)]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows)

    def with_small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    command = bulk_command(corpus, "--output", OUT, "--local", "--format", "jsonl", "--keep", "text")
    full = subprocess.run(
        [sys.executable, *command], preexec_fn=with_small_files, capture_output=True, text=True, env=os.environ
    )

    assert full.returncode == STOPPED, full.stderr
    assert "File too large" in full.stderr or "disk" in full.stderr
    assert "Traceback" not in full.stderr

    assert bulk(OUT, corpus, format="jsonl", keep=["text"]) == DONE
    assert ids() == [each["id"] for each in rows]


def test_standard_input_is_gone_on_with_if_it_is_given_again(tmp_path):
    command = bulk_command("-", "--output", OUT, "--local", "--shard-documents", "10", "--quiet")
    for limit in ("12", "25"):
        subprocess.run([sys.executable, *command, "--limit", limit], input=lines(ROWS), check=True)

    assert ids() == [each["id"] for each in ROWS]
    assert {each["source"] for each in rows_of(OUT)} == {"-"}


def test_what_a_kill_left_of_a_shard_is_gone_when_the_job_goes_on(corpus):
    assert bulk(OUT, corpus, **COMMON, limit=10) == DONE
    left = [OUT / "part-00001.jsonl", OUT / ".job" / "part-00001.failures.jsonl"]
    for path in left:
        path.write_text('{"id": "left", "source": "x", "row": 1, "reason": {"type": "Left", "message": ""}}\n')

    assert bulk(OUT, corpus, **COMMON, limit=10) == DONE

    assert [path.exists() for path in left] == [False, False]
    assert failures_of(OUT) == []
