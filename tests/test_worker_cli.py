"""The operator's commands, on a real queue."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from redis import Redis

from tests.engines import load_capitals
from tests.workers import wait_until
from worker.cli import main
from worker.protocol import Keys
from worker.pump import Pump
from worker.queue import DocumentQueue
from worker.settings import Settings

KEYS = Keys("test:")


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


def test_status_shows_depths_age_dead_letters_and_workers(
    settings: Settings, redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    redis.xadd(KEYS.high, {"id": "1", "text": "x"})
    redis.xadd(KEYS.high, {"id": "2", "text": "x"}, id=f"{(int(time.time()) + 1) * 1000}-0")
    redis.xadd(KEYS.dead, {"letter": "{}"})
    queue = DocumentQueue(settings, consumer="host-1-ab")
    queue.ensure()
    queue.read(1, 0)
    queue.close()

    assert main(["status"]) == 0

    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert [KEYS.high, "2"] in rows
    assert [KEYS.bulk, "0"] in rows
    assert [row[:2] for row in rows if row and row[0] == "host-1-ab"] == [["host-1-ab", "1"]]


def test_dead_lists_the_newest_first_with_the_reason(
    settings: Settings, redis: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    pump = Pump(settings.model_copy(update={"metrics_port": 0}), load_capitals, device="cpu")
    pump.start()
    redis.xadd(KEYS.normal, {"id": "[red]\x1b[31mone"})
    wait_until(lambda: redis.xlen(KEYS.dead) == 1)
    redis.xadd(KEYS.normal, {"id": "two", "text": "!raise"})
    wait_until(lambda: redis.xlen(KEYS.dead) == 2)
    pump.stop()

    assert main(["dead"]) == 0

    rows = [[cell.strip() for cell in line.split("│")[2:-1]] for line in capsys.readouterr().out.splitlines()]
    shown = [row for row in rows if row]
    assert shown[0] == ["'two'", "1", "ValueError", "an order to raise"]
    assert shown[1][:3] == [r"'[red]\x1b[31mone'", "1", "DocumentError"]


def test_a_command_without_redis_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPNER_REDIS_URL", "redis://user:secret@127.0.0.1:1/0")

    assert [main([command]) for command in ("status", "dead")] == [2, 2]

    message = "error: cannot reach Redis at redis://user:***@127.0.0.1:1/0: start it or set GPNER_REDIS_URL"
    assert capsys.readouterr().err.splitlines() == [message] * 2
