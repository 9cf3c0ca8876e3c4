"""docker-compose.yml: what Compose says of it, and what it promises. `make try-compose` runs it for real."""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.workers import ROOT
from worker.settings import ENV_PREFIX, Settings

FILES = ("docker-compose.yml", "docker-compose.published.yml")
PASSWORD = re.compile(r"^([A-Z]+_PASSWORD)=", re.MULTILINE)
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / FILES[0]).read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
WORKERS = ("worker", "worker-gpu")


def compose_v1() -> list[str]:
    program = shutil.which("docker-compose")
    return [program] if program else []


def compose_v2() -> list[str]:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        return []
    return [docker, "compose"]


PROGRAMS = {"docker-compose": compose_v1, "docker compose": compose_v2}


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> list[str]:
    found = PROGRAMS[request.param]()
    if not found:
        pytest.skip(f"needs `{request.param}`")
    return found


@pytest.fixture
def env(tmp_path: Path) -> Path:
    """The file that a new user gets."""
    subprocess.run([ROOT / "ops/new-env.sh", tmp_path / "env"], check=True)
    return tmp_path / "env"


def run(program: list[str], env: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables}
    return subprocess.run(
        [*program, "--env-file", str(env), *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_compose_accepts_the_files_with_what_a_new_user_has(program: list[str], env: Path, profile: str) -> None:
    chosen = [argument for name in FILES for argument in ("--file", name)]

    answer = run(program, env, *chosen, "config", "--quiet", COMPOSE_PROFILES=profile)

    assert answer.returncode == 0, answer.stderr


def test_what_is_missing_is_named_with_its_cure(program: list[str], env: Path) -> None:
    env.write_text(re.sub("^WORKER_PASSWORD=.*", "", env.read_text(), flags=re.MULTILINE))

    answer = run(program, env, "config", "--quiet")

    assert answer.returncode != 0
    assert "must be set, run ops/new-env.sh" in answer.stderr


def test_a_new_env_file_has_random_passwords_that_nobody_else_may_read(env: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run([ROOT / "ops/new-env.sh", other], check=True)

    passwords = re.findall(r"^[A-Z]+_PASSWORD=([0-9a-f]{48})$", env.read_text() + other.read_text(), re.MULTILINE)

    assert len(passwords) == len(set(passwords)) == 2 * len(PASSWORD.findall(env.read_text()))
    assert stat.S_IMODE(env.stat().st_mode) == 0o600


def test_an_env_file_is_never_overwritten(env: Path) -> None:
    before = env.read_text()

    answer = subprocess.run([ROOT / "ops/new-env.sh", env], capture_output=True, text=True)

    assert answer.returncode == 2
    assert "must not exist yet" in answer.stderr
    assert env.read_text() == before


def test_git_ignores_the_passwords() -> None:
    assert subprocess.run(["git", "check-ignore", "--quiet", ".env"], cwd=ROOT).returncode == 0


def test_every_user_of_redis_has_a_password() -> None:
    users = re.findall(r"#([A-Z]+_PASSWORD)_SHA256", (ROOT / "ops/redis/users.acl").read_text())
    example = PASSWORD.findall((ROOT / ".env.example").read_text())
    given = [name for name in SERVICES["redis"]["environment"] if name.endswith("_PASSWORD")]

    assert sorted(given) == sorted(users)
    assert sorted(example) == sorted([*users, "GRAFANA_PASSWORD"])


@pytest.mark.parametrize("worker", WORKERS)
def test_every_setting_can_be_set_for_a_worker(worker: str) -> None:
    of_image = re.findall(rf"{ENV_PREFIX}\w+", (ROOT / "ops/Dockerfile").read_text())
    of_compose = [name for name in SERVICES[worker]["environment"] if name.startswith(ENV_PREFIX)]
    # Of the GPU worker nobody sets the threads that it uses on a CPU.
    left_out = {"GPNER_CPU_THREADS"} if worker == "worker-gpu" else set()

    assert {*of_image, *of_compose} == {ENV_PREFIX + name.upper() for name in Settings.model_fields} - left_out


@pytest.mark.parametrize("worker", WORKERS)
def test_a_drain_ends_before_docker_loses_patience(worker: str) -> None:
    patience = int(SERVICES[worker]["stop_grace_period"].removesuffix("s"))

    assert patience >= SERVICES[worker]["environment"]["GPNER_DRAIN_SECONDS"] + 15


@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_may_write_nothing_but_its_locks_and_its_cache(worker: str) -> None:
    writable = [volume for volume in SERVICES[worker]["volumes"] if not _is_read_only(volume)]

    assert SERVICES[worker]["read_only"] is True
    assert writable == ["gpu-locks:/run/gpner-gpus", "cache:/cache"]


def test_a_bulk_job_may_write_nothing_but_its_folder() -> None:
    assert SERVICES["bulk"]["read_only"] is True
    assert [volume["target"] for volume in SERVICES["bulk"]["volumes"]] == ["/bulk"]
    assert SERVICES["bulk"]["image"] == SERVICES["worker"]["image"]


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_is_limited(service: str) -> None:
    limits = SERVICES[service]

    assert limits["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in limits["security_opt"]
    assert limits["logging"]["options"]["max-size"]
    assert limits["mem_limit"]


def test_only_grafana_is_published_unless_more_is_asked_for() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    on_request = yaml.safe_load((ROOT / FILES[1]).read_text())["services"]

    assert list(published) == ["grafana"]
    assert sorted(on_request) == ["prometheus", "redis"]
    for ports in [*published.values(), *(service["ports"] for service in on_request.values())]:
        assert all(port.startswith("127.0.0.1:") for port in ports)


def test_images_of_others_are_pinned() -> None:
    of_others = [service["image"] for service in SERVICES.values() if "build" not in service]

    assert all(re.fullmatch(r"[a-z0-9_/]+:v?\d+\.\d+\.\d+(-\w+)?", image) for image in of_others), of_others


def test_prometheus_finds_both_kinds_of_worker_and_redis() -> None:
    prometheus = yaml.safe_load((ROOT / "ops/prometheus/prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in prometheus["scrape_configs"]}
    (by_name,) = jobs["gpner-worker"]["dns_sd_configs"]
    (exporter,) = jobs["redis"]["static_configs"]
    measured = {name for name, service in SERVICES.items() if "metrics" in service["networks"]}

    assert by_name["names"] == ["worker"]
    assert SERVICES["worker-gpu"]["networks"]["metrics"]["aliases"] == ["worker"]
    assert exporter["targets"] == ["redis-exporter:9121"]
    assert measured >= {*WORKERS, "redis-exporter", "prometheus", "grafana"}
    assert "redis" not in measured


def _is_read_only(volume: str | dict[str, Any]) -> bool:
    return volume["read_only"] if isinstance(volume, dict) else volume.endswith(":ro")
