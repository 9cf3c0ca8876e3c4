"""Real Prometheus servers and exporters for the tests."""

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import yaml

from tests.workers import wait_until
from worker.local_redis import WITH_A_LIFELINE, free_port

PROMETHEUS, PROMTOOL, REDIS_EXPORTER = "prometheus", "promtool", "prometheus-redis-exporter"
START_SECONDS = 30.0


def missing_programs() -> list[str]:
    """Programs that these tests need and that are not here; Debian has them in two packages of the same names."""
    return [program for program in (PROMETHEUS, PROMTOOL, REDIS_EXPORTER) if not shutil.which(program)]


@contextmanager
def running(command: list[str], log: Path) -> Iterator[None]:
    """Run a server during the block; it ends with this process, even if that is killed."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", WITH_A_LIFELINE, "sh", *command], stdin=subprocess.PIPE, stdout=output, stderr=output
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(15)
        process.stdin.close()  # type: ignore[union-attr]  # it is a pipe


class Prometheus:
    """A Prometheus server with a folder of its own, during its block.

    Args:
        folder: For its configuration and its data, which a later server may go on with.
        configuration: What stands in its prometheus.yml; rules are named by absolute paths.
    """

    def __init__(self, folder: Path, configuration: Mapping[str, Any]) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._file = folder / "prometheus.yml"
        self._file.write_text(yaml.safe_dump(dict(configuration)), encoding="utf-8")
        command = [PROMETHEUS, f"--config.file={self._file}", f"--storage.tsdb.path={self.data}"]
        self._process = running(
            [*command, f"--web.listen-address=127.0.0.1:{self.port}", "--storage.tsdb.retention.time=30d"],
            folder / "prometheus.log",
        )

    def __enter__(self) -> Self:
        self._process.__enter__()
        wait_until(self._ready, START_SECONDS, "Prometheus")
        return self

    def __exit__(self, *error: object) -> None:
        self._process.__exit__(None, None, None)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an expression, now, without those that are NaN."""
        return [sample for sample in self._get("query", query=expression)["result"] if sample["value"][1] != "NaN"]

    def rules(self) -> list[dict[str, Any]]:
        """All rules with their health."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, path: str, **parameters: object) -> Any:
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(address, timeout=30) as answer:
            return json.load(answer)["data"]

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
