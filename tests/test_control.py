"""What operators tell a running worker through Celery: pause, resume, drain, reload, and what it holds."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from gpner.checkpoint import checkpoint_revision, save_checkpoint
from tests.engines import CapitalsEngine
from tests.models import tiny_text_model
from tests.workers import ROOT, WorkerProcess, wait_until
from worker.client import Client
from worker.protocol import Keys
from worker.pump import Pump
from worker.settings import Settings

pytestmark = pytest.mark.integration

KEYS = Keys("test:")
# So slow, with so much held, that whatever an operator does comes in the middle.
SLOW = {"max_batch_tokens": 5, "max_held_tokens": 400, "drain_seconds": 0}


def tell(settings: Settings, command: str, **arguments: str) -> dict[str, str]:
    """Send a control command to the one worker, and return its answer."""
    with Celery("operator", broker=settings.redis_url.get_secret_value(), set_as_current=False) as app:
        app.conf.broker_transport_options = {"global_keyprefix": settings.namespace}
        replies = app.control.broadcast(command, arguments=arguments, reply=True, timeout=10, limit=1)
    (answer,) = replies[0].values()
    return dict(answer)


def results(store: Redis) -> list[Any]:
    return [json.loads(store.get(name) or b"") for name in store.scan_iter(KEYS.result("*"))]


def test_a_paused_worker_finishes_what_it_holds_is_unready_and_goes_on_when_told(
    settings: Settings, store: Redis, tmp_path: Path
) -> None:
    with (
        Client(settings) as client,
        WorkerProcess(settings, "load_slow", tmp_path / "log", **SLOW | {"max_held_tokens": 40}) as worker,
    ):
        worker.wait_until_ready()
        client.submit_many(["one TWO three"] * 30)
        wait_until(lambda: results(store))

        paused = tell(settings, "pause")
        wait_until(lambda: store.xpending(KEYS.normal, KEYS.group)["pending"] == 0)
        seen = worker.get("/readyz"), worker.get("/livez"), worker.metric("gpner_ready")
        left = store.xlen(KEYS.normal)
        resumed = tell(settings, "resume")

        wait_until(lambda: not store.xlen(KEYS.normal))
    assert paused == {"ok": "paused; `resume` ends it"}
    assert seen == ((503, "paused\n"), (200, "ok\n"), 0)
    assert left > 0
    assert resumed == {"ok": "now reading"}
    assert len(results(store)) == 30


def test_a_drain_finishes_all_that_is_held_however_long_it_takes_and_ends_the_process(
    settings: Settings, store: Redis, tmp_path: Path
) -> None:
    with Client(settings) as client, WorkerProcess(settings, "load_slow", tmp_path / "log", **SLOW) as worker:
        worker.wait_until_ready()
        client.submit_many(["one TWO three"] * 60)
        wait_until(lambda: results(store))
        held = store.xpending(KEYS.normal, KEYS.group)["pending"]

        answer = tell(settings, "drain")
        state = worker.get("/readyz")

        assert worker.wait() == 0
    assert answer == {"ok": "draining; the process ends when nothing is held"}
    assert state == (503, "draining\n")
    assert len(results(store)) >= held > 10
    assert len(results(store)) + store.xlen(KEYS.normal) == 60
    assert store.xpending(KEYS.normal, KEYS.group)["pending"] == 0
    assert store.xinfo_consumers(KEYS.normal, KEYS.group) == []


@pytest.fixture(scope="module")
def checkpoints(wordpiece_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Two models that differ, and one whose weights were cut off."""
    folder = tmp_path_factory.mktemp("models")
    old, new, broken = (folder / name for name in ("old", "new", "broken"))
    for path, thresholds in ((old, [0.0, 0.0]), (new, [0.25, 0.25]), (broken, [0.0, 0.0])):
        save_checkpoint(tiny_text_model(wordpiece_tokenizer, thresholds=thresholds), wordpiece_tokenizer, path)
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    return old, new, broken


@pytest.mark.slow
def test_a_reload_under_load_loses_nothing_and_a_broken_checkpoint_changes_nothing(
    settings: Settings, store: Redis, tmp_path: Path, checkpoints: tuple[Path, Path, Path]
) -> None:
    old, new, broken = checkpoints
    options = {"model": old, "cpu_threads": 1, "max_batch_tokens": 256, "max_held_tokens": 1024}
    submitted: list[str] = []
    with (
        Client(settings) as client,
        WorkerProcess(settings, "worker.engine:load_extractor", tmp_path / "log", **options) as worker,
    ):

        def last_reload() -> Any:
            client_submits()
            return (tell(settings, "held")["last_reload"] or {}).get("path")

        def client_submits() -> None:
            submitted.extend(client.submit_many(["Ann met the mayor of Lisbon near the river"] * 20))

        worker.wait_until_ready()
        client_submits()
        wait_until(lambda: results(store))
        began = tell(settings, "reload", path=str(new))
        wait_until(lambda: last_reload() == str(new), 20)
        tell(settings, "reload", path=str(broken))
        wait_until(lambda: last_reload() == str(broken), 20)
        answers = [client.result(document_id, 20) for document_id in submitted]
        shown = tell(settings, "held")
        info = worker.metric("gpner_model_info", model="new", revision=checkpoint_revision(new))

    revisions = [checkpoint_revision(old), checkpoint_revision(new)]
    assert began == {"ok": "reloading; `inspect held` says how it ends"}
    assert {(answer.model, answer.revision) for answer in answers} == set(zip(("old", "new"), revisions, strict=True))
    assert [answer.revision for answer in answers] == sorted(
        (answer.revision for answer in answers), key=revisions.index
    )
    assert (shown["model"], shown["revision"], shown["state"]) == ("new", revisions[1], "reading")
    assert shown["last_reload"]["outcome"] == "failed"
    assert f"must hold the weights of its config.json, in {broken} it does not" in shown["last_reload"]["problem"]
    assert info == 1
    assert store.xlen(KEYS.dead) == 0


class Panic(BaseException):
    """As a panic in Rust arrives in Python."""


def test_a_model_that_panics_while_it_loads_changes_nothing(settings: Settings, store: Redis) -> None:
    def load(of_model: Settings) -> CapitalsEngine:
        if of_model.model == "panics":
            raise Panic("index out of bounds")
        return CapitalsEngine(of_model)

    pump = Pump(settings.model_copy(update={"metrics_port": 0}), load, device="cpu")
    pump.start()
    try:
        wait_until(lambda: pump.state == "reading")
        pump.reload("panics")
        wait_until(lambda: pump.info()["last_reload"] and pump.state == "reading")
        with Client(settings) as client:
            entities = client.extract("ADA").entities
    finally:
        pump.stop()

    assert pump.info()["last_reload"]["problem"] == "Panic: index out of bounds"
    assert [entity.text for entity in entities] == ["ADA"]


def test_celerys_own_command_line_knows_the_commands(settings: Settings, store: Redis, tmp_path: Path) -> None:
    with Client(settings) as client, WorkerProcess(settings, "load_slow", tmp_path / "log", **SLOW) as worker:
        worker.wait_until_ready()
        client.submit("word " * 6000)
        wait_until(lambda: store.xpending(KEYS.normal, KEYS.group)["pending"])

        def celery(*words: str) -> str:
            command = [sys.executable, "-m", "celery", "-A", "worker.app", *words, "--json"]
            ran = subprocess.run(
                command, env=worker.environment, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
            )
            return ran.stdout

        held = json.loads(celery("inspect", "held"))
        reload = json.loads(celery("control", "reload", "/models/new"))
        again = json.loads(celery("control", "reload"))
        worker.signal(signal.SIGTERM)
        code = worker.wait()

    (shown,) = held.values()
    (node,) = held
    assert shown["oldest_held_seconds"] > 0
    del shown["consumer"], shown["metrics_port"], shown["oldest_held_seconds"]
    assert shown == {
        "state": "reading",
        "device": "cpu",
        "model": "capitals",
        "revision": "0123456789ab",
        "last_reload": None,
        "documents_held": 1,
        "tokens_held": 6016,
        "batch_tokens": 5,
    }
    assert reload == [{node: {"ok": "reloading; `inspect held` says how it ends"}}]
    assert "this one is reloading" in again[0][node]["error"]
    assert code == 0
