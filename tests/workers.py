"""Real worker processes for the tests, and a Redis that survives being stopped."""

import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from redis.exceptions import RedisError

from worker.connection import connect
from worker.local_redis import find_server
from worker.settings import ENV_PREFIX, Settings

ROOT = Path(__file__).parent.parent
START_SECONDS = 60.0


def wait_until(true: Callable[[], object], seconds: float = 10.0, what: str = "it") -> None:
    """Poll until it is true; fail the test otherwise, and say what did not come."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds:g} s"
        time.sleep(0.01)


class WorkerProcess:
    """`gpner-worker start`, killed at the end of its block if need be.

    Args:
        settings: Of these the address of Redis and the namespace.
        engine: A function of tests/engines.py, or any as `module:function`.
        log: Where its output goes.
        environment: Variables that it gets beside its settings.
        overrides: Further settings.
    """

    def __init__(
        self,
        settings: Settings,
        engine: str,
        log: Path,
        environment: Mapping[str, str] = MappingProxyType({}),
        **overrides: object,
    ) -> None:
        values = {
            "redis_url": settings.redis_url.get_secret_value(),
            "namespace": settings.namespace,
            "engine": engine if ":" in engine else f"tests.engines:{engine}",
            "device": "cpu",
            "metrics_port": 0,
            **overrides,
        }
        self.environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environment}
        self.environment |= {ENV_PREFIX + name.upper(): str(value) for name, value in values.items()}
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "worker.cli", "start"],
                cwd=log.parent,
                env=self.environment,
                stdout=output,
                stderr=output,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def port(self) -> int:
        found = re.search(r"http://127\.0\.0\.1:(\d+)/metrics", self.log.read_text())
        return int(found[1]) if found else 0

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of one of its pages; status 0 while nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def wait_until_ready(self) -> Self:
        """Return when it takes documents, calls and commands."""
        wait_until(lambda: self._process.poll() is not None or self._is_ready(), START_SECONDS)
        assert self._process.poll() is None, self.log.read_text()
        return self

    def _is_ready(self) -> bool:
        # Celery says so when it hears commands.
        return bool(self.port and self.get("/readyz")[0] == 200 and " ready." in self.log.read_text())

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of that name that carry these labels."""
        families = text_string_to_metric_families(self.get("/metrics")[1])
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float = 15.0) -> int:
        """Its exit code; negative is the signal that ended it."""
        return self._process.wait(seconds)

    def ended(self) -> int | None:
        """Its exit code if it has ended."""
        return self._process.poll()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class DurableRedis:
    """A Redis server that writes every command to disk, and comes back on the same port with all its data.

    Args:
        folder: Where it keeps its data.
        port: Where it listens.
        host: The address on which it listens.
        command: What runs it; by default the server itself.
    """

    def __init__(self, folder: Path, port: int, host: str = "127.0.0.1", command: Sequence[str] = ()) -> None:
        self.folder = folder
        self.port = port
        self.host = host
        self._command = command or [find_server()]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    def start(self) -> None:
        options = f"--port {self.port} --bind {self.host} --protected-mode no --dir {self.folder}"
        options += " --save  --appendonly yes --appendfsync always"
        self._process = subprocess.Popen(
            [*self._command, *options.split(" ")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        with Redis(self.host, self.port) as connection:
            wait_until(lambda: _answers(connection))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self._process
        self._process.send_signal(number)
        self.wait()

    def wait(self, seconds: float = 15.0) -> None:
        """Wait for its end."""
        assert self._process
        self._process.wait(seconds)

    def kill(self) -> None:
        """End it, whether it runs or not."""
        self.stop(signal.SIGKILL)


def _answers(connection: Redis) -> bool:
    try:
        return bool(connection.ping())
    except RedisError:
        return False


def immortal_keys(settings: Settings) -> set[str]:
    """Keys without a time to live, apart from the three in which Celery's transport notes its queues."""
    connection = connect(settings.redis_url)
    keys = list(connection.scan_iter(count=1000))
    with connection.pipeline(transaction=False) as looks:
        for key in keys:
            looks.ttl(key)
        lives = looks.execute()
    connection.close()
    immortal = {key.decode() for key, life in zip(keys, lives, strict=True) if life == -1}
    return {key for key in immortal if not key.startswith(f"{settings.namespace}_kombu.")}
