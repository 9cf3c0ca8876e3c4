"""What is sent to the service by those who mean it ill: pickles, hostile ids; and what it opens to them."""

import ast
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from pickle import dumps as pickle_dumps
from pickle import loads as pickle_loads
from typing import Any

import pytest
from kombu import Connection, Exchange
from redis import Redis

from tests.engines import load_capitals
from tests.secure_redis import run
from tests.workers import ROOT, WorkerProcess, wait_until
from worker.connection import connect
from worker.local_redis import free_port
from worker.protocol import Keys
from worker.pump import Pump
from worker.settings import Settings

KEYS = Keys("test:")


HOSTILE_IDS: list[bytes] = [
    b"*", b"?", b"[a-z]", b"..", b"../dead", b":", b"dead", b"documents", b"documents:high", b"workers", b"{x}", b"%00",
    b"test:dead", b"test:result:7", b"result:7", b"x test:dead", b"'; redis.call('FLUSHALL')", b"$(reboot)",
    "\u202e\u0661".encode(), "\U0001f642".encode(), b"x" * 256, b"x" * 257, b"x" * 1_000_000, b"", b"\n",
    b"a\r\nFLUSHALL", b"\x00", b"\x1b[2J", b"\xff\xfe", "\u2028".encode(), b"\xed\xa0\x80",
]  # fmt: skip


def test_no_id_makes_a_worker_write_a_key_that_is_no_result(settings: Settings, redis: Redis) -> None:
    redis.set("sessions", "precious", ex=100)
    pump = Pump(settings.model_copy(update={"metrics_port": 0}), load_capitals, device="cpu")
    for number, name in enumerate(HOSTILE_IDS):
        redis.xadd(KEYS.streams[number % 3], {"id": name, "text": "ADA", "reply_to": KEYS.reply("all")})
        redis.xadd(KEYS.normal, {"id": f"asks {number}", "text": "ADA", "reply_to": name})

    pump.start()
    wait_until(lambda: redis.xlen(KEYS.reply("all")) == len(HOSTILE_IDS) and not redis.xlen(KEYS.normal))
    pump.stop()

    valid = [name.decode() for name in HOSTILE_IDS[: HOSTILE_IDS.index(b"x" * 257)]]
    expected = {KEYS.result(name) for name in valid} | {KEYS.result(f"asks {i}") for i in range(len(HOSTILE_IDS))}
    expected |= {*KEYS.streams, KEYS.dead, KEYS.reply("all"), "sessions"}
    assert {key.decode() for key in redis.scan_iter()} - {KEYS.workers, KEYS.clock} == expected
    assert redis.get("sessions") == b"precious"
    assert redis.delete("sessions")


class Evil:
    """What an attacker pickles: whoever unpickles it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.integration
def test_a_pickle_is_refused_and_never_opened(settings: Settings, tmp_path: Path) -> None:
    trace = tmp_path / "unpickled"
    pickle_loads(pickle_dumps(Evil(trace)))
    assert trace.exists(), "the attack itself must work"
    trace.unlink()
    options = {"global_keyprefix": settings.namespace}
    with connect(settings.redis_url) as store:
        store.flushall()
        with WorkerProcess(settings, "load_capitals", tmp_path / "log") as worker:
            worker.wait_until_ready()
            with Connection(settings.redis_url.get_secret_value(), transport_options=options) as broker:
                task = {"id": "1", "task": "gpner.extract"}
                producer = broker.Producer(serializer="pickle")
                producer.publish(Evil(trace), headers=task, routing_key="tasks")
                mailbox = Exchange("celery.pidbox", "fanout")
                producer.publish(Evil(trace), exchange=mailbox, declare=[mailbox], routing_key="")
            store.set("test:celery-task-meta-forged", pickle_dumps(Evil(trace)))
            store.xadd(
                "test:documents", {"id": "p", "text": pickle_dumps(Evil(trace)), "meta": pickle_dumps(Evil(trace))}
            )
            wait_until(lambda: worker.log.read_text().count("Refusing to deserialize") == 2)
            wait_until(lambda: store.exists("test:result:p"))
            forged = "from worker.app import app; app.AsyncResult('forged').get(timeout=5)"
            reader = run(settings, "timeit", "-n1", "-r1", forged)
            call = "from worker.app import app; print(app.send_task('gpner.extract', [['ADA']]).get(timeout=20))"
            answer = run(settings, "timeit", "-n1", "-r1", call)
        store.flushall()

    assert reader.returncode != 0
    assert "'status': 'done'" in answer.stdout
    assert not trace.exists()


def test_celery_takes_json_everywhere() -> None:
    program = """
from worker.app import app
conf = app.conf
assert conf.accept_content == ["json"], conf.accept_content
assert conf.result_accept_content in (None, ["json"])
assert {conf.task_serializer, conf.result_serializer, conf.event_serializer} == {"json"}
assert (list(app.backend.accept), list(app.control.mailbox.accept)) == (["application/json"], ["json"])
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, env={"PATH": os.environ["PATH"]})


@pytest.mark.parametrize("file", sorted([*ROOT.glob("gpner/**/*.py"), *ROOT.glob("worker/**/*.py")]), ids=str)
def test_nothing_that_runs_data_as_code_is_used(file: Path) -> None:
    tree = ast.parse(file.read_text())
    imported = {
        alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {(node.module or "").partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}

    assert not imported & {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "yaml"}
    assert not called & {
        "eval",
        "exec",
        "compile",
        "torch.load",
        "torch.hub.load",
        "np.load",
        "numpy.load",
        "os.system",
    }


@pytest.mark.integration
@pytest.mark.parametrize(
    ("host", "answering"),
    [("127.0.0.1", {"127.0.0.1"}), ("127.0.0.2", {"127.0.0.2"}), ("0.0.0.0", {"127.0.0.1", "127.0.0.2"})],
)
def test_metrics_and_health_answer_where_they_are_told_to_and_nothing_else_listens(
    settings: Settings, tmp_path: Path, host: str, answering: set[str]
) -> None:
    port = free_port()
    options = {"metrics_host": host, "metrics_port": port}
    with WorkerProcess(settings, "load_capitals", tmp_path / "log", **options) as worker:
        wait_until(lambda: any(answers(address, port) for address in answering))

        listening = listening_sockets(worker.pid)
        found = {address for address in ("127.0.0.1", "127.0.0.2") if answers(address, port)}

    assert found == answering
    assert listening == {(host, port)}
    with connect(settings.redis_url) as store:
        store.flushall()


def answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True


def listening_sockets(pid: int) -> set[tuple[str, int]]:
    """Addresses and ports on which a process listens, as the kernel lists them."""
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            links.append(str(link.readlink()))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in links:
                address, _, port = local.partition(":")
                found.add((".".join(str(byte) for byte in reversed(bytes.fromhex(address))), int(port, 16)))
    return found
