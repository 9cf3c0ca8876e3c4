"""The operator's commands, on a real queue."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.letters import KEYS, bury, cells
from tests.terminals import Terminal
from tests.workers import DurableRedis
from worker.cli import main
from worker.client import Client
from worker.local_redis import free_port
from worker.presence import Report
from worker.queue import DocumentQueue
from worker.settings import RedisUrl, Settings
from worker.status import Status


@pytest.fixture(autouse=True)
def environment(settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPNER_REDIS_URL", settings.redis_url.get_secret_value())
    monkeypatch.setenv("GPNER_NAMESPACE", settings.namespace)
    monkeypatch.setenv("COLUMNS", "200")


def test_submitted_files_are_queued_whole_and_their_ids_printed(
    redis: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one").write_text("ADA in 伦敦\n", encoding="utf-8")
    (tmp_path / "two").write_text("")

    assert main(["submit", str(tmp_path / "one"), str(tmp_path / "two"), "--priority", "bulk"]) == 0

    ids = capsys.readouterr().out.split()
    queued = [fields for _, fields in redis.xrange(KEYS.bulk)]
    assert [fields[b"id"].decode() for fields in queued] == ids
    assert [fields[b"text"].decode() for fields in queued] == ["ADA in 伦敦\n", ""]


def test_standard_input_is_one_document(redis: Redis) -> None:
    subprocess.run([sys.executable, "-m", "worker.cli", "submit", "-"], input=b"ADA\nLONDON", check=True)

    ((_, fields),) = redis.xrange(KEYS.normal)
    assert fields[b"text"] == b"ADA\nLONDON"


def test_a_file_that_cannot_be_submitted_is_named_and_nothing_is_queued(
    redis: Redis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good").write_text("ADA")
    (tmp_path / "latin").write_bytes(b"caf\xe9")

    assert main(["submit", str(tmp_path / "good"), str(tmp_path / "latin")]) == 2
    assert main(["submit", str(tmp_path / "missing")]) == 2

    errors = capsys.readouterr().err.splitlines()
    assert errors == [
        f"error: {tmp_path}/latin: must be UTF-8, is not at byte 3; convert it first",
        f"error: {tmp_path}/missing: cannot be read: No such file or directory",
    ]
    assert redis.xlen(KEYS.normal) == 0


@pytest.fixture
def queue(settings: Settings, redis: Redis) -> Iterator[DocumentQueue]:
    """A worker with a name that is meant to paint the terminal, holding one of two urgent documents."""
    queue = DocumentQueue(settings, consumer="[red]host\x1b[31m")
    queue.ensure()
    redis.xadd(KEYS.high, {"id": "1", "text": "x"})
    redis.xadd(KEYS.high, {"id": "2", "text": "x"})
    queue.read(1, 0)
    yield queue
    queue.close()


def test_status_shows_streams_workers_and_what_is_left_to_do(
    queue: DocumentQueue, redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    bury(redis, {b"id": b"3"})

    assert main(["status"]) == 0

    output = capsys.readouterr().out
    rows = cells(output)
    assert [row[:4] for row in rows[:3]] == [
        [KEYS.high, "2", "1", "1"],
        [KEYS.normal, "0", "0", "0"],
        [KEYS.bulk, "0", "0", "0"],
    ]
    assert [row[:3] for row in rows[3:]] == [[r"'[red]host\x1b[31m'", "at work", "1"]]
    assert "rate: unknown, no worker tells it" in output
    assert "dead letters: 1 (gpner-worker dead list)" in output
    assert "MiB, no limit" in output
    assert "\x1b" not in output


def test_status_shows_what_a_worker_says_and_when_all_is_done(
    queue: DocumentQueue, redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report(
        state="reading", device="[b]cpu", model="ner", revision="0123456789ab", batch_tokens=1, tokens_held=1,
        documents_ended=9, documents_per_second=0.01,
    )  # fmt: skip
    queue.announce(report.model_dump_json())
    redis.config_set("maxmemory", 100 * 2**20)
    try:
        assert main(["status"]) == 0
    finally:
        redis.config_set("maxmemory", 0)

    output = capsys.readouterr().out
    row = cells(output)[3]
    assert (row[1:3], row[4:]) == (["reading", "1"], ["0.0", "[b]cpu", "ner 0123456789ab"])
    assert "rate: 0.0 documents/s; all done in about 3 min if no more arrive" in output
    assert "of 100 MiB (" in output


def test_status_for_programs_is_one_json_object(queue: DocumentQueue, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--json"]) == 0

    output = capsys.readouterr().out
    assert output.isascii()
    assert Status.model_validate_json(output).workers[0].name == "[red]host\x1b[31m"
    assert json.loads(output)["streams"][0]["processing"] == 1


@pytest.fixture
def durable_server(tmp_path: Path) -> Iterator[DurableRedis]:
    server = DurableRedis(tmp_path, free_port())
    server.start()
    yield server
    server.kill()


@pytest.mark.integration
def test_status_on_a_terminal_goes_on_through_an_outage_until_interrupted(
    settings: Settings, durable_server: DurableRedis
) -> None:
    with Terminal(["status"], {"GPNER_REDIS_URL": durable_server.url}) as terminal:
        terminal.read_until("nothing is left to do")
        durable_server.stop()
        terminal.read_until("cannot reach Redis")
        terminal.read_until("trying again every second")
        durable_server.start()
        with Client(settings.model_copy(update={"redis_url": RedisUrl(durable_server.url)})) as client:
            client.submit("ADA")
        terminal.read_until("nothing gets done")
        terminal.interrupt()

        assert terminal.end() == 0


def test_a_command_without_redis_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPNER_REDIS_URL", "redis://user:secret@127.0.0.1:1/0")

    assert [main(command) for command in (["status"], ["dead", "list"])] == [2, 2]

    message = "error: cannot reach Redis at redis://user:***@127.0.0.1:1/0: start it or set GPNER_REDIS_URL"
    assert capsys.readouterr().err.splitlines() == [message] * 2


def test_control_characters_in_a_name_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "no\x1b[31msuch\nfile"]) == 2

    assert "no [31msuch file" in capsys.readouterr().err
