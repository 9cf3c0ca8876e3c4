"""`gpner-worker bulk` as people and scripts meet it: standard input and output, what it shows, exit codes, dry runs."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.bulk_tools import bulk_command, row, rows_of, write_jsonl, write_parquet
from tests.engines import CapitalsEngine, Run, Words
from tests.terminals import Terminal
from tests.workers import wait_until
from worker.bulk.reading import BLOCK_ITEMS
from worker.settings import Settings

ROWS = [row(number) for number in range(25)]

pytestmark = pytest.mark.integration


def run(*arguments: object, given: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, *bulk_command(*arguments)]
    return subprocess.run(command, input=given, capture_output=True, env={**os.environ, **environment}, timeout=60)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "corpus.jsonl", [*ROWS, "broken", {"id": "none"}])


def test_standard_input_to_standard_output(corpus):
    done = run("-", "--output", "-", "--local", "--keep", "year", given=corpus.read_bytes())

    rows = [json.loads(line) for line in done.stdout.splitlines()]
    failures = [json.loads(line) for line in done.stderr.splitlines() if line.startswith(b"{")]
    assert done.returncode == 1
    assert [(each["id"], each["source"], each["row"], each["year"]) for each in rows] == [
        (each["id"], "-", number, each["year"]) for number, each in enumerate(ROWS, start=1)
    ]
    assert [(each["row"], each["reason"]["type"]) for each in failures] == [(26, "BrokenRow"), (27, "MissingText")]


def test_whoever_reads_standard_output_may_have_enough(tmp_path):
    # More than a pipe holds.
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [row(number, words=20) for number in range(1000)])
    command = " ".join([sys.executable, *bulk_command(corpus, "--output", "-", "--local", "--quiet")])

    done = subprocess.run(f"({command}; echo $? >&2) | head -1", shell=True, capture_output=True, timeout=60)

    assert json.loads(done.stdout)["id"] == "doc-0"
    assert done.stderr == b"3\n"


class EndlessEngine(CapitalsEngine):
    """Never comes back from an order to compute."""

    def run(self, documents: Sequence[Words]) -> Run:
        if any("!compute" in document.text for document in documents):
            import torch

            numbers = torch.rand(600, 600)
            Path("computing").touch()
            while True:
                torch.mm(numbers, numbers)
        return super().run(documents)


def load_endless(settings: Settings) -> CapitalsEngine:
    return EndlessEngine(settings)


def test_a_forward_that_goes_on_when_a_job_ends_does_not_change_its_exit_code(tmp_path):
    rows = [row(number, words=20) for number in range(BLOCK_ITEMS)]  # more than a pipe holds
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [*rows, {"text": "!compute"}])
    command = [sys.executable, *bulk_command(corpus, "--output", "-", "--local", "--quiet")]
    # So small batches that the last row is computed apart from the others.
    settings = {"GPNER_ENGINE": "tests.bulk.test_command:load_endless", "GPNER_MAX_BATCH_TOKENS": "1000"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, env={**os.environ, **settings}) as job:
        wait_until(lambda: Path("computing").exists(), 60)

        job.stdout.close()

        assert job.wait(60) == 3
        assert job.stderr.read() == b""


def test_a_disk_without_room_for_standard_output_ends_a_job_that_nothing_goes_on_with(corpus):
    command = [sys.executable, *bulk_command(corpus, "--output", "-", "--local", "--quiet")]

    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60)

    assert done.returncode == 3
    assert done.stderr == b"stopped: [Errno 28] No space left on device\n"


def test_a_stop_that_nobody_can_be_told_of_has_its_exit_code_too(corpus):
    command = [sys.executable, *bulk_command(corpus, "--output", "-", "--local", "--quiet")]

    with Path("/dev/full").open("wb") as full:
        assert subprocess.run(command, stdout=full, stderr=full, timeout=60).returncode == 3


@pytest.mark.parametrize("closed", ["out", "err"])
def test_a_job_whose_listener_is_gone_ends_quietly_and_can_be_gone_on_with(corpus, closed):
    reader, pipe = os.pipe()
    os.close(reader)
    command = [sys.executable, *bulk_command(corpus, "--output", "out", "--local", "--strict")]

    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {f"std{closed}": pipe}
    done = subprocess.run(command, **streams, timeout=60)
    os.close(pipe)

    assert done.returncode == 3
    assert b"Traceback" not in (done.stdout or b"") + (done.stderr or b"")
    assert run(corpus, "--output", "out", "--local").returncode == 1
    assert len(rows_of(Path("out"))) == len(ROWS)


def test_a_run_says_what_came_out_and_quiet_says_nothing(corpus):
    done = run(corpus, "--output", "out", "--local")
    quiet = run(corpus, "--output", "quiet", "--local", "--quiet")

    shown = done.stdout.decode()
    assert done.returncode == quiet.returncode == 1
    for words in ("done, shards: 1", "documents", "25", "entities", "WORD", "LONG", "BrokenRow", "MissingText"):
        assert words in shown
    assert (quiet.stdout, quiet.stderr) == (b"", b"")


def test_labels_and_reasons_of_strangers_are_shown_without_their_escapes(tmp_path):
    corpus = write_jsonl(
        tmp_path / "corpus.jsonl", [{"id": "\x1b[31m", "text": "\x1b]0;evil\x07 ABC"}, {"id": "\x1b[31m"}]
    )

    done = run(corpus, "--output", "out", "--local", "--keep", "text")

    assert b"\x1b" not in done.stdout + done.stderr


def test_progress_is_lines_where_there_is_no_terminal_and_a_bar_on_one(tmp_path):
    rows = [{"id": str(number), "text": f"WORD {25_000 * 'x'}"} for number in range(300)]
    corpus = write_jsonl(tmp_path / "corpus.jsonl", rows)
    slow = {"GPNER_ENGINE": "tests.engines:load_slow", "GPNER_MAX_BATCH_TOKENS": "10"}

    done = run(corpus, "--output", "lines", "--local", "--limit", 150, **slow)
    with Terminal(["bulk", str(corpus), "--output", "bar", "--local"], slow) as terminal:
        terminal.read_until("failures")
        terminal.read_until("tokens/s")
        terminal.interrupt()
        terminal.read_until("finishing what is under way")
        terminal.interrupt()
        assert terminal.end() == 3

    assert done.returncode == 0
    (line,) = (line for line in done.stderr.decode().splitlines() if "tokens/s" in line)
    assert "documents" in line
    assert " 0 failures" in line
    assert "s left" in line


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(corpus):
    done = run(corpus, "--output", "out", "--local", "--dry-run", "--shard-documents", 10)

    shown = done.stdout.decode()
    assert done.returncode == 1
    assert f"{corpus}:26: a line must be one JSON object" in shown
    assert f"{corpus}:27: a row must have a text in text" in shown
    numbers = {
        cells[1].strip(): cells[2].strip() for cells in (line.split("│") for line in shown.splitlines()) if cells[2:]
    }
    assert {name: numbers[name] for name in ("sources", "documents", "shards", "problems")} == {
        "sources": "1", "documents": "25", "shards": "3", "problems": "2",
    }  # fmt: skip
    assert not Path("out").exists()
    assert run(corpus, "--output", "out", "--local", "--dry-run", "--limit", 20).returncode == 0


def test_a_dry_run_of_a_job_that_was_begun_counts_what_is_finished(corpus):
    run(corpus, "--output", "out", "--local", "--shard-documents", 10, "--limit", 20)

    done = run(corpus, "--output", "out", "--local", "--shard-documents", 10, "--dry-run")

    (line,) = (line for line in done.stdout.decode().splitlines() if "finished" in line)
    assert line.split("│")[2].strip() == "2"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--local needs GPNER_MODEL"),
        (["--format", "xml"], "--format must be one of parquet, jsonl"),
        (["--shard-documents", "0"], "must be at least 1"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(corpus, monkeypatch, flags, words):
    monkeypatch.delenv("GPNER_ENGINE")

    done = run(corpus, "--output", "out", "--local", *flags)

    assert done.returncode == 2
    assert done.stderr.decode().startswith("error: ")
    assert words in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


def test_a_fault_that_nobody_foresaw_is_no_end_of_the_job(corpus, monkeypatch):
    monkeypatch.setenv("GPNER_ENGINE", "operator:truediv")

    done = run(corpus, "--output", "out", "--local")

    assert done.returncode == 3
    assert b"TypeError" in done.stderr


@pytest.mark.parametrize(
    ("number", "flags", "next_step"),
    [(signal.SIGINT, [], b"; the same command goes on"), (signal.SIGTERM, ["--dry-run"], b"")],
    ids=["job", "dry run"],
)
def test_a_signal_while_packages_are_loaded_is_a_stop_too(corpus, tmp_path, number, flags, next_step):
    (tmp_path / "pyarrow.py").write_text("import pathlib, time; pathlib.Path('loading').touch(); time.sleep(60)")
    paths = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ['PYTHONPATH']}"}
    command = [sys.executable, *bulk_command(corpus, "--output", "out", "--local", *flags)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=paths) as job:
        wait_until(lambda: Path("loading").exists(), 30)

        job.send_signal(number)

        assert job.wait(30) == 3
        assert job.stderr.read() == b"stopped by %s%s\n" % (number.name.encode(), next_step)


def test_without_redis_a_job_over_the_queue_does_not_begin(corpus):
    done = run(corpus, "--output", "out", GPNER_REDIS_URL="redis://127.0.0.1:1/0")

    assert done.returncode == 2
    assert b"cannot reach Redis" in done.stderr
    assert not Path("out").exists()


def test_a_parquet_corpus_of_other_columns(tmp_path):
    rows = [{"key": each["id"], "body": each["text"], "year": each["year"]} for each in ROWS]
    corpus = write_parquet(tmp_path / "corpus.parquet", rows)

    done = run(corpus, "--output", "out", "--local", "--id-field", "key", "--text-field", "body", "--keep", "year")

    assert done.returncode == 0
    assert [(each["id"], each["year"]) for each in rows_of(Path("out"))] == [
        (each["id"], each["year"]) for each in ROWS
    ]


def test_producers_load_no_pyarrow_and_a_job_over_the_queue_loads_no_torch():
    modules = "import sys; print(*sorted({'pyarrow', 'fsspec', 'torch', 'celery'} & set(sys.modules)))"

    def loaded(statement: str) -> str:
        command = [sys.executable, "-c", f"{statement}; {modules}"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert loaded("import worker.cli, worker.client") == ""
    assert loaded("import worker.bulk.run") == "pyarrow"
