"""What an operator gets wrong, said in one line by a process that ends; with a supervisor it tries again.

What `gpner-worker start` finds before it becomes Celery is tested in tests/test_worker_process.py.
"""

from pathlib import Path

import pytest

from tests.workers import WorkerProcess
from worker.connection import connect
from worker.local_redis import LocalRedis
from worker.settings import RedisUrl, Settings

pytestmark = pytest.mark.integration

CANNOT_START = 2


@pytest.fixture
def one_gpu(tmp_path: Path) -> dict[str, str]:
    """The environment of a host whose driver lists one GPU; nothing ever computes on it."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho GPU-00000000-1111-2222-3333-444444444444, 0\n")
    tool.chmod(0o755)
    return {"PATH": f"{tool.parent}:/usr/bin:/bin"}


def said(worker: WorkerProcess) -> str:
    """The last line of a worker that ended because it could not start."""
    assert worker.wait() == CANNOT_START
    log = worker.log.read_text()
    assert "Traceback" not in log
    return log.splitlines()[-1]


def test_two_workers_for_one_gpu(settings: Settings, tmp_path: Path, one_gpu: dict[str, str]) -> None:
    options = {"device": "cuda", "gpu_lock_folder": tmp_path / "locks"}
    with WorkerProcess(settings, "load_capitals", tmp_path / "first", one_gpu, **options) as first:
        first.wait_until_ready()
        with WorkerProcess(settings, "load_capitals", tmp_path / "second", one_gpu, **options) as second:
            line = said(second)
        first.kill()
        with WorkerProcess(settings, "load_capitals", tmp_path / "third", one_gpu, **options) as third:
            third.wait_until_ready()

    assert "a worker needs a GPU of its own, all 1 here are held by other workers" in line
    assert "GPU-00000000-1111" in first.log.read_text()


def test_a_gpu_demanded_where_no_driver_is(settings: Settings, tmp_path: Path) -> None:
    with WorkerProcess(settings, "load_capitals", tmp_path / "log", device="cuda") as worker:
        line = said(worker)

    assert "GPNER_DEVICE=cuda needs a GPU, nvidia-smi shows none here" in line


def test_a_wrong_password(settings: Settings, tmp_path: Path) -> None:
    with LocalRedis() as server, connect(RedisUrl(server.url)) as connection:
        connection.config_set("requirepass", "right")
        url = f"redis://:wrong@127.0.0.1:{server.port}/0"
        with WorkerProcess(settings, "load_capitals", tmp_path / "log", redis_url=url) as worker:
            line = said(worker)

    assert line == (
        f"error: Redis at redis://:***@127.0.0.1:{server.port}/0 refused the login; "
        "check user and password in GPNER_REDIS_URL"
    )
