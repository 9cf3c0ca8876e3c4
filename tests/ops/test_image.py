"""What the images are made of: the locks, the Dockerfile, and the health check, asked of a real worker."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.workers import ROOT, WorkerProcess, wait_until
from worker.local_redis import free_port
from worker.settings import Settings

LOCKS = ("build", "producer", "cpu", "cuda")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def locked(name: str) -> dict[str, str]:
    """The version of each package in a lock file."""
    lines = re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==(\S+)", lock_file(name), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in lines}


def lock_file(name: str) -> str:
    return (ROOT / f"ops/requirements-{name}.txt").read_text(encoding="utf-8")


def wanted(*extras: str) -> list[Requirement]:
    """What the project says that it needs, extras that it names itself included."""
    lines = [*PROJECT["dependencies"]]
    for extra in extras:
        lines += PROJECT["optional-dependencies"][extra]
    requirements = [Requirement(line) for line in lines]
    return [requirement for requirement in requirements if requirement.name != "gpner"]


@pytest.mark.parametrize("name", LOCKS)
def test_every_file_that_goes_into_an_image_is_known_by_its_hash(name: str) -> None:
    packages = re.split(r"\n(?=\S)", re.sub(r"^\s*#.*\n?", "", lock_file(name), flags=re.MULTILINE).strip())

    assert all("--hash=sha256:" in package for package in packages)
    assert len(packages) == len(locked(name))


@pytest.mark.parametrize(
    ("name", "extras"), [("producer", []), ("cpu", ["model", "worker", "bulk"]), ("cuda", ["model", "worker", "bulk"])]
)
def test_the_locks_hold_what_the_project_asks_for(name: str, extras: list[str]) -> None:
    versions = locked(name)

    unmet = [str(each) for each in wanted(*extras) if not each.specifier.contains(versions.get(each.name, "0"))]

    assert unmet == [], "run ops/lock.sh"


def test_a_producers_image_has_neither_torch_nor_celery() -> None:
    assert not {"torch", "transformers", "celery"} & set(locked("producer"))


def test_the_variants_differ_in_torch_alone() -> None:
    cpu, cuda = locked("cpu"), locked("cuda")

    differing = {package for package in {*cpu} & {*cuda} if cpu[package] != cuda[package]}

    assert differing == {"torch"}
    assert cpu["torch"] == f"{cuda['torch']}+cpu"
    assert all(re.match("nvidia|cuda|triton", package) for package in {*cuda} - {*cpu})
    assert {*cpu} <= {*cuda}


def test_the_images_run_as_a_user_of_a_fixed_number() -> None:
    stages = (ROOT / "ops/Dockerfile").read_text(encoding="utf-8").split("\nFROM ")
    last_users = {
        stage.split()[2]: re.findall(r"^USER (.*)$", stage, re.MULTILINE)[-1:]
        for stage in stages
        if "AS run" in stage or stage.startswith("run AS")
    }

    assert last_users == {"run": ["10001:10001"], "producer": [], "worker": ["10001:10001"]}


def ready(port: int) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "GPNER_METRICS_PORT": str(port)}
    return subprocess.run([sys.executable, ROOT / "ops/ready.py"], env=environment, capture_output=True, text=True)


def test_the_health_check_fails_where_no_worker_is() -> None:
    answer = ready(free_port())

    assert answer.returncode == 1
    assert answer.stdout.startswith("no answer on GPNER_METRICS_PORT=")
    assert answer.stderr == ""


@pytest.mark.integration
def test_the_health_check_says_what_the_worker_says(settings: Settings, tmp_path: Path) -> None:
    with WorkerProcess(settings, "load_never_warm", tmp_path / "loading") as loading:
        wait_until(lambda: loading.port, what="its port")
        unready = ready(loading.port)
    with WorkerProcess(settings, "load_capitals", tmp_path / "log") as worker:
        worker.wait_until_ready()
        answer = ready(worker.port)

    assert (unready.returncode, unready.stdout) == (1, "the model is loading\n")
    assert (answer.returncode, answer.stdout) == (0, "ok\n")
