"""Services in another language: Node, with a Celery client that is not Celery's own, and with nothing but Redis."""

import json
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.workers import ROOT, WorkerProcess, wait_until
from worker.protocol import Keys
from worker.settings import Settings

pytestmark = pytest.mark.integration

KEYS = Keys("test:")
PACKAGES = ("celery-node@0.5.9", "redis@6.3.1")
TEXTS = ["ADA in LONDON", {"text": "PARIS 伦敦 👩‍🚀", "id": "mine", "meta": {"page": 7}}]


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two packages, from npm."""
    folder = tmp_path_factory.mktemp("node")
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("needs node and npm")
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder), *PACKAGES]
    try:
        subprocess.run(command, capture_output=True, check=True, timeout=60)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip(f"npm could not install {' and '.join(PACKAGES)}")
    return folder / "node_modules"


def node(node_modules: Path, settings: Settings, program: str, *arguments: str) -> "subprocess.Popen[str]":
    url = settings.redis_url.get_secret_value()
    return subprocess.Popen(
        [shutil.which("node") or "", str(ROOT / "tests" / "foreign" / program), url, settings.namespace, *arguments],
        env={"NODE_PATH": str(node_modules)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def output(program: "subprocess.Popen[str]") -> Any:
    with program:
        printed, errors = program.communicate(timeout=60)
    assert program.returncode == 0, errors
    return json.loads(printed)


@pytest.mark.parametrize("protocol", ["1", "2"])
def test_celery_node_gets_answers_and_errors_in_both_formats_of_messages(
    settings: Settings, store: Redis, tmp_path: Path, node_modules: Path, protocol: str
) -> None:
    calls = [[TEXTS, {"priority": "high"}], [["text"] * 65, {}]]
    with WorkerProcess(settings, "load_capitals", tmp_path / "log") as worker:
        worker.wait_until_ready()
        answers, error = output(node(node_modules, settings, "celery_node.js", protocol, json.dumps(calls)))
        wait_until(lambda: not store.exists("test:unacked"))

    assert [[entity["text"] for entity in answer["entities"]] for answer in answers] == [["ADA", "LONDON"], ["PARIS"]]
    assert (answers[1]["id"], answers[1]["meta"]) == ("mine", {"page": 7})
    assert error["exc_type"] == "DocumentError"
    assert "at most 64, was: 65" in error["exc_message"][0]


def test_a_call_of_celery_node_goes_on_after_the_worker_that_had_it_was_drained(
    settings: Settings, store: Redis, tmp_path: Path, node_modules: Path
) -> None:
    calls = json.dumps([[["one TWO three"] * 40, {}]])
    with WorkerProcess(settings, "load_slow", tmp_path / "one", max_batch_tokens=5, max_held_tokens=40) as one:
        one.wait_until_ready()
        program = node(node_modules, settings, "celery_node.js", "2", calls)
        wait_until(lambda: list(store.scan_iter(KEYS.result("*"))))
        one.signal(signal.SIGTERM)
        one.wait()
        handed_back = store.llen("test:tasks")
    with WorkerProcess(settings, "load_capitals", tmp_path / "two"):
        (answers,) = output(program)
        wait_until(lambda: not store.exists("test:unacked"))

    assert handed_back == 1
    assert [answer["entities"][0]["text"] for answer in answers] == ["TWO"] * 40


def test_plain_redis_from_node_is_enough(settings: Settings, store: Redis, tmp_path: Path, node_modules: Path) -> None:
    with WorkerProcess(settings, "load_capitals", tmp_path / "log"):
        result = output(node(node_modules, settings, "redis_stream.js", "42", "ADA in LONDON 伦敦"))

    assert (result["id"], result["status"], result["meta"]) == ("42", "done", {"from": "node"})
    assert [entity["text"] for entity in result["entities"]] == ["ADA", "LONDON"]
