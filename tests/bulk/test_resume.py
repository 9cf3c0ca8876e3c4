"""The same command again: what it goes on with, what it adds, what it refuses, what it tries once more."""

import gc
import gzip
import json
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from gpner.errors import ConfigError
from tests.bulk_tools import (
    BulkProcess,
    bulk,
    bulk_command,
    digests,
    failures_of,
    row,
    rows_of,
    summary_of,
    told,
    write_jsonl,
    write_parquet,
)
from worker.bulk.exit_codes import DONE, DONE_WITH_FAILURES, STOPPED
from worker.bulk.job import Job

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


def test_a_dry_run_refuses_what_a_run_would_refuse(corpus):
    bulk(OUT, corpus, **COMMON)

    with pytest.raises(ConfigError, match="was begun with --format"):
        bulk(OUT, corpus, dry_run=True)


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
    job = Job.open(OUT, {"format": "jsonl"}, [])
    job.begin()
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


def test_a_setting_that_decides_what_fails_is_part_of_the_job(corpus, monkeypatch):
    bulk(OUT, corpus, **COMMON, limit=10)
    monkeypatch.setenv("GPNER_MAX_DOCUMENT_CHARACTERS", "7")

    with pytest.raises(ConfigError, match="was begun with GPNER_MAX_DOCUMENT_CHARACTERS 5000000, not 7"):
        bulk(OUT, corpus, **COMMON)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
@pytest.mark.parametrize("behind", [False, True])
def test_input_that_has_grown_within_its_last_line_is_refused(tmp_path, name, behind):
    """Half of that line was read as a row; whether there is another input behind it or not."""
    whole = {"a.jsonl": lines(ROWS[:3]), "a.csv": b"id,text\na,ONE\nb,TWO\nc,THREE\n"}[name]
    path = tmp_path / name
    path.write_bytes(whole[:-3])
    inputs = [path, write_jsonl(tmp_path / "b.jsonl", [row(50)])][: 1 + behind]
    bulk(OUT, *inputs, **COMMON)

    path.write_bytes(whole)
    with pytest.raises(ConfigError, match=rf"grown by whole lines, .*{name} has grown within its last line"):
        bulk(OUT, *inputs, **COMMON)


@pytest.mark.parametrize("behind", [b" THREE\n", b'"x\n'])
def test_an_answer_to_half_a_line_is_not_taken_for_that_of_the_whole(tmp_path, behind):
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,text\na,!raise\nb,ONE TWO")
    assert bulk(OUT, path, **COMMON, max_failures=0) == STOPPED, "before the shard is finished"

    append(path, behind)
    assert bulk(OUT, path, **COMMON) == DONE_WITH_FAILURES

    (found,) = rows_of(OUT)
    assert found["entities"][-1]["text"] == ("THREE" if b"THREE" in behind else "TWO")
    assert found["tokens"] == len(b"ONE TWO".split()) + (b"THREE" in behind)


def test_a_last_line_may_get_its_end_and_others_behind_it(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,text\na,ONE\nb,TWO")
    assert bulk(OUT, path, **COMMON) == DONE

    append(path, b"\nc,THREE\n")
    assert bulk(OUT, path, **COMMON) == DONE

    assert ids() == ["a", "b", "c"]


def test_an_output_within_the_input_is_never_read(corpus, tmp_path):
    for limit in (20, None):
        assert bulk(OUT, tmp_path, **COMMON, limit=limit) == DONE

    assert bulk("afresh", tmp_path, **COMMON) == DONE, "nor what another job has written"

    assert digests(Path("afresh")) == digests(OUT)
    assert ids() == [each["id"] for each in ROWS]
    with pytest.raises(ConfigError, match=r"--output must not hold the input, out holds out/part-00000\.jsonl"):
        bulk(OUT, OUT / "part-00000.jsonl", **COMMON)


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


READ_FILES: list[str] = []
# A hook stays for ever, so it listens only while somebody has asked.
HEARD = threading.Event()


def hear(event: str, arguments: Any) -> None:
    if event == "open" and HEARD.is_set():
        READ_FILES.append(str(arguments[0]))


def test_many_failures_are_read_as_seldom_as_can_be_and_take_next_to_no_memory(tmp_path):
    common = {"format": "jsonl", "shard_documents": 2_000}

    def peak_of(number: int) -> int:
        """The most memory that a run takes to which so many failures are known that have failed three times."""
        corpus = tmp_path / f"{number}.jsonl"
        corpus.write_bytes(b"broken\n" * number)
        out = Path(f"out-{number}")
        for _ in range(3):
            bulk(out, corpus, **common, retry_failures=out.exists())
        gc.collect()
        tracemalloc.start()
        bulk(out, corpus, **common)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert summary_of(out)["failures"] == {"BrokenRow": number}
        return peak

    assert (peak_of(12_000) - peak_of(4_000)) / 8_000 < 150  # bytes a failure

    sys.addaudithook(hear)
    HEARD.set()
    bulk("plain", tmp_path / "4000.jsonl", format="jsonl")
    HEARD.clear()
    assert sum(name.endswith(".failures.jsonl") for name in READ_FILES) == 1, "for failures.jsonl"


def test_what_fails_again_stays_one_failure(tmp_path):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"id": "a", "text": "!raise"}, row(1)])
    bulk(OUT, corpus, **COMMON)

    for _ in range(3):
        assert bulk(OUT, corpus, **COMMON, retry_failures=True, max_failures=1) == DONE_WITH_FAILURES

        assert [each["id"] for each in failures_of(OUT)] == ["a"]
        assert summary_of(OUT)["documents"] == 1


def test_a_source_that_broke_is_read_on_from_there_when_it_is_retried(tmp_path):
    many = [{"id": f"doc-{number}", "text": f"{number:0900d}"} for number in range(5_000)]
    path = tmp_path / "corpus.jsonl.gz"
    whole = gzip.compress(lines(many), mtime=0)
    path.write_bytes(whole[: len(whole) // 2])
    common = {"format": "jsonl", "shard_documents": 1000}
    assert bulk(OUT, path, **common) == DONE_WITH_FAILURES
    got = len(ids())
    assert 0 < got < 5_000
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


def test_trying_failures_again_reads_nothing_else(tmp_path, monkeypatch):
    rows = [row(number) for number in range(6)]
    rows[1]["text"] = "!raise"
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows)
    bulk(OUT, corpus, **COMMON, limit=3)
    bulk("done", corpus, **COMMON)
    append(corpus, lines([row(7)]))
    more = write_jsonl(tmp_path / "more.jsonl", [row(8)])
    monkeypatch.setenv("GPNER_ENGINE", "tests.engines:load_noop")

    for folder, found in ((OUT, [0, 2, 1]), (Path("done"), [0, 2, 3, 4, 5, 1])):
        assert bulk(folder, corpus, more, **COMMON, retry_failures=True) == DONE
        assert [each["id"] for each in rows_of(folder)] == [f"doc-{number}" for number in found]
        assert failures_of(folder) == []

        assert bulk(folder, corpus, more, **COMMON) == DONE
        assert sorted(each["id"] for each in rows_of(folder)) == [f"doc-{number}" for number in [*range(6), 7, 8]]


def test_a_job_whose_input_is_not_read_to_its_end_stays_stopped_when_failures_are_tried_again(tmp_path):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [*ROWS, "broken", row(77)])
    assert bulk(OUT, corpus, **COMMON, strict=True) == STOPPED

    code, words = told(OUT, corpus, **COMMON, retry_failures=True)

    assert code == STOPPED
    assert "not read to its end; the same command without --retry-failures goes on from here" in words
    assert bulk(OUT, corpus, **COMMON) == DONE_WITH_FAILURES
    assert ids() == [*(each["id"] for each in ROWS), "doc-77"]


def test_failures_cannot_be_tried_again_where_there_is_no_job(corpus):
    with pytest.raises(ConfigError, match="--retry-failures needs the folder of a job as --output, out is none"):
        bulk(OUT, corpus, retry_failures=True)

    assert not OUT.exists()


def test_the_rest_of_a_source_that_broke_is_read_in_steps_and_gone_on_with(tmp_path):
    """It breaks again further down, then not; and the job was stopped before its last source."""
    whole = gzip.compress(
        lines([{"id": f"doc-{number}", "text": f"{number:0900d}"} for number in range(8_000)]), mtime=0
    )
    path, last = tmp_path / "a.jsonl.gz", write_jsonl(tmp_path / "b.jsonl", [row(9_000 + n) for n in range(30)])
    common = {"format": "jsonl", "shard_documents": 1000}
    got = []
    for part, options in (
        (3, {}),
        (6, {"retry_failures": True}),
        (6, {"retry_failures": True}),
        (9, {"retry_failures": True}),
    ):
        path.write_bytes(whole[: len(whole) * part // 9])

        code = bulk(OUT, path, last, **common, **options)

        got.append(len(ids()))
        assert code == (DONE if part == 9 else DONE_WITH_FAILURES)
        assert [each["reason"]["type"] for each in failures_of(OUT)] == ["BrokenSource"] * (part < 9)
    assert got == sorted(got)
    assert got[1] > got[0]

    assert bulk(OUT, path, last, **common) == DONE
    assert sorted(ids()) == sorted([*(f"doc-{n}" for n in range(8_000)), *(f"doc-{9_000 + n}" for n in range(30))])


def test_strict_stops_at_the_first_broken_row_and_the_job_goes_on_without_it(tmp_path):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [*ROWS, "broken", row(77)])

    assert bulk(OUT, corpus, **COMMON, strict=True) == STOPPED
    assert summary_of(OUT)["state"] == "stopped"
    assert ids() == [each["id"] for each in ROWS[:20]], "whole shards alone"

    assert bulk(OUT, corpus, **COMMON) == DONE_WITH_FAILURES
    assert ids() == [*(each["id"] for each in ROWS), "doc-77"]


def test_more_failures_than_allowed_stop_the_job_and_a_higher_limit_lets_it_go_on(tmp_path, monkeypatch):
    # Shards and batches are small, so that little is under way when it stops.
    monkeypatch.setenv("GPNER_MAX_BATCH_TOKENS", "10")
    rows = [{"id": str(number), "text": "!raise" if number < 30 else "ABC"} for number in range(1_500)]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows)
    common = {"format": "jsonl", "shard_documents": 20}

    assert bulk(OUT, corpus, **common, max_failures=29) == STOPPED
    assert summary_of(OUT)["documents"] < 1_470

    assert bulk(OUT, corpus, **common, max_failures=30) == DONE_WITH_FAILURES
    assert len(failures_of(OUT)) == 30
    assert len(ids()) == 1_470


@pytest.mark.integration
@pytest.mark.parametrize("file_bytes", [4096, 200_000])
def test_a_disk_without_room_stops_the_job_and_it_goes_on_when_there_is_some(tmp_path, file_bytes):
    rows = [row(number, words=1000) for number in range(50)]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows)

    log = tmp_path / "log"
    command = (corpus, "--output", OUT, "--local", "--format", "jsonl", "--keep", "text")

    full = BulkProcess(*command, log=log, file_bytes=file_bytes)

    assert full.wait() == STOPPED, log.read_text()
    assert "File too large" in log.read_text() or "disk" in log.read_text()
    assert "Traceback" not in log.read_text()

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
