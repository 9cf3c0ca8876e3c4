"""What protects the service: TLS, users with few rights, no secret in any output, JSON and nothing else."""

import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from celery import Celery
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from gpner.errors import ResultTimeout, ServiceError
from tests.bulk_tools import rows_of, write_jsonl
from tests.secure_redis import SecureRedis, run, secure_server
from tests.workers import WorkerProcess, immortal_keys, wait_until
from worker.client import Client
from worker.connection import celery_connection, connect
from worker.protocol import Keys
from worker.settings import Settings, load_settings

needs_secure_redis = pytest.mark.skipif(
    secure_server() is None, reason="no redis-server of version 7 or newer with TLS on PATH"
)
KEYS = Keys("gpner:")
CELERY = ["celery", "-A", "worker.app"]


@pytest.fixture(scope="module")
def server() -> Iterator[SecureRedis]:
    with tempfile.TemporaryDirectory(prefix="gpner-secure-") as folder, SecureRedis(Path(folder)) as secure:
        yield secure


@pytest.fixture
def admin(server: SecureRedis, settings: Settings) -> Iterator[Redis]:
    """The administrator, on an empty server; afterwards nobody was refused anything in passing."""
    with server.connect("admin") as connection:
        connection.flushall()
        server.refusals()
        yield connection
        assert immortal_keys(Settings(redis_url=server.url("admin"))) <= {*KEYS.streams, KEYS.dead}


def as_user(server: SecureRedis, user: str, **overrides: Any) -> Settings:
    return Settings(redis_url=server.url(user), **overrides)


@needs_secure_redis
@pytest.mark.integration
def test_over_tls_every_role_can_do_its_work_and_asks_for_no_right_that_it_lacks(
    server: SecureRedis, admin: Redis, tmp_path: Path
) -> None:
    worker_settings = as_user(server, "worker")
    with WorkerProcess(worker_settings, "load_capitals", tmp_path / "log") as worker:
        worker.wait_until_ready()
        with Client(as_user(server, "producer")) as client:
            assert [entity.text for entity in client.extract("ADA in LONDON").entities] == ["ADA", "LONDON"]
            client.submit("ADA", id="mine", priority="bulk")
            assert client.result("mine", 10).status == "done"
            with pytest.raises(ResultTimeout, match="this client did not submit it"):
                client.result("unknown", 0)
        admin.xadd(KEYS.high, {"id": "bad"})
        wait_until(lambda: admin.exists(KEYS.result("bad")))

        operator = as_user(server, "operator")
        done = [
            run(operator, "worker.cli", *command)
            for command in (
                ["status", "--once"],
                ["status", "--json"],
                ["dead", "list"],
                ["dead", "show", "bad", "--text"],
                ["dead", "retry", "bad"],
            )
        ]
        done += [
            run(operator, *CELERY, *command)
            for command in (["inspect", "ping"], ["inspect", "held"], ["control", "pause"], ["control", "resume"])
        ]
        wait_until(lambda: admin.xlen(KEYS.dead))
        done.append(run(operator, "worker.cli", "dead", "drop", "bad", "--yes"))
        call = "from worker.app import app; print(app.send_task('gpner.extract', [['ADA in PARIS']]).get(timeout=20))"
        done.append(run(as_user(server, "caller"), "timeit", "-n1", "-r1", call))
        with connect(as_user(server, "exporter").redis_url) as exporter:
            measured = [exporter.xlen(KEYS.normal), exporter.xlen(KEYS.dead), len(exporter.xinfo_groups(KEYS.normal))]
            assert exporter.info("memory")["maxmemory"] == 0

        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0

    assert [(program.returncode, program.stderr) for program in done] == [(0, "")] * len(done)
    assert "'text': 'PARIS'" in done[-1].stdout
    assert measured == [0, 0, 1]
    assert "Traceback" not in worker.log.read_text()
    assert server.refusals() == []


@needs_secure_redis
@pytest.mark.integration
def test_taking_over_and_handing_back_need_no_right_that_a_worker_lacks(
    server: SecureRedis, admin: Redis, tmp_path: Path
) -> None:
    options = {"lease_seconds": 0.9, "drain_seconds": 0, "max_batch_tokens": 20, "max_held_tokens": 80}
    for number in range(60):
        admin.xadd(KEYS.normal, {"id": str(number), "text": "one TWO three"})
    run(
        as_user(server, "worker"),
        "timeit",
        "-n1",
        "-r1",
        "from worker.app import app; app.send_task('celery.accumulate', (5,), task_id='lost')",
    )
    task = admin.rpop("gpner:tasks").decode()

    for log, end in (("one", signal.SIGKILL), ("two", signal.SIGTERM), ("three", None)):
        if end is None:
            # As if a worker had been killed with this task a day ago.
            admin.hset("gpner:unacked", "tag", f'[{task}, "", "tasks"]')
            admin.zadd("gpner:unacked_index", {"tag": time.time() - 86_400})
        with WorkerProcess(as_user(server, "worker"), "load_slow", tmp_path / log, **options) as worker:
            worker.wait_until_ready()
            if end is None:
                wait_until(lambda: not admin.xlen(KEYS.normal), 20)
                wait_until(lambda: admin.exists("gpner:celery-task-meta-lost"), 30)
            else:
                wait_until(lambda: admin.xpending(KEYS.normal, KEYS.group)["pending"])
                worker.signal(end)
                worker.wait()

    assert len(list(admin.scan_iter(KEYS.result("*")))) == 60
    assert server.refusals() == []


@needs_secure_redis
@pytest.mark.integration
def test_a_bulk_job_asks_for_no_right_that_its_user_lacks(server: SecureRedis, admin: Redis, tmp_path: Path) -> None:
    corpus = write_jsonl(
        tmp_path / "corpus.jsonl", [{"id": str(number), "text": "ADA in PARIS"} for number in range(100)]
    )
    job = ("worker.cli", "bulk", str(corpus), "--output", str(tmp_path / "out"), "--shard-documents", "10")
    with WorkerProcess(as_user(server, "worker"), "load_capitals", tmp_path / "log") as worker:
        worker.wait_until_ready()
        done = run(as_user(server, "bulk"), *job)

    assert (done.returncode, len(rows_of(tmp_path / "out"))) == (0, 100), done.stderr
    assert list(admin.scan_iter("gpner:re*")) == []
    assert server.refusals() == []


FORBIDDEN = {
    "bulk": [
        "KEYS *", "SCAN 0", "GET gpner:result:1", "GET gpner:result:bulk:1", "UNLINK gpner:result:1",
        "DEL gpner:result:bulk:1", "SET gpner:result:bulk:1 x", "DEL gpner:reply:1", "XREAD STREAMS gpner:reply:1 0",
        "XADD gpner:reply:bulk:1 * a b", "XRANGE gpner:documents - +", "XRANGE gpner:documents:high - +",
        "XREAD STREAMS gpner:documents:bulk 0", "XDEL gpner:documents:bulk 1-1", "XTRIM gpner:documents:bulk MAXLEN 0",
        "XREADGROUP GROUP workers me STREAMS gpner:documents:bulk >", "XACK gpner:documents:bulk workers 1-1",
        "DEL gpner:documents:bulk", "XLEN gpner:dead", "XREVRANGE gpner:dead + -", "HSET gpner:workers me x",
        "LPUSH gpner:tasks x", "FLUSHALL", "CONFIG GET *", "INFO", "EVAL x 0",
    ],
    "producer": [
        "KEYS *", "SCAN 0", "RANDOMKEY", "DBSIZE", "TYPE gpner:result:1", "EXISTS gpner:result:1", "OBJECT HELP",
        "SET gpner:result:1 x", "DEL gpner:result:1", "MGET gpner:result:1 gpner:celery-task-meta-1",
        "GET gpner:celery-task-meta-1", "GET gpner:call:1", "GET other:key", "EXPIRE gpner:result:1 1",
        "XREVRANGE gpner:dead + -", "XRANGE gpner:dead - +", "XLEN gpner:dead", "XADD gpner:dead * letter x",
        "XRANGE gpner:documents - +", "XREAD STREAMS gpner:documents 0", "XINFO STREAM gpner:documents",
        "XREADGROUP GROUP workers me STREAMS gpner:documents >", "XCLAIM gpner:documents workers me 0 1-1",
        "XACK gpner:documents workers 1-1", "XDEL gpner:documents 1-1", "XTRIM gpner:documents MAXLEN 0",
        "XSETID gpner:documents 9-9", "XGROUP DESTROY gpner:documents workers", "DEL gpner:documents",
        "RENAME gpner:documents gpner:reply:x", "COPY gpner:documents gpner:reply:x", "DUMP gpner:result:1",
        "XADD gpner:documents:mine * id 1 text x", "XADD gpner:result:1 * a b", "XADD other * a b",
        "HSET gpner:workers me x", "LPUSH gpner:tasks x", "PUBLISH gpner:/0.celery.pidbox x",
        "SUBSCRIBE gpner:celery-task-meta-1", "PSUBSCRIBE *", "CLIENT LIST", "CLIENT KILL TYPE normal",
        "CLIENT TRACKING ON BCAST", "FLUSHALL", "FLUSHDB", "SWAPDB 0 1", "SHUTDOWN NOSAVE",
        "CONFIG GET *", "CONFIG SET maxmemory 1", "ACL LIST", "ACL LOG", "INFO", "MONITOR", "SLOWLOG GET",
        "MODULE LIST", "REPLICAOF NO ONE", "BGREWRITEAOF", "SCRIPT FLUSH", "SCRIPT KILL", "FUNCTION LIST",
        "EVAL x 0", "MIGRATE h 1 gpner:result:1 0 1", "SORT gpner:documents",
    ],
    "caller": [
        "KEYS *", "SCAN 0", "RPOP gpner:tasks", "BRPOP gpner:tasks 1", "LRANGE gpner:tasks 0 -1", "DEL gpner:tasks",
        "HGETALL gpner:unacked", "PUBLISH gpner:/0.celery.pidbox x", "SET gpner:celery-task-meta-1 x",
        "PSUBSCRIBE gpner:celery-task-meta-*", "GET gpner:result:1", "XLEN gpner:documents", "FLUSHALL", "CONFIG GET *",
        "PEXPIRE gpner:tasks 1", "SADD gpner:tasks x", "ZADD gpner:tasks 1 x", "LPUSH gpner:_kombu.binding.tasks x",
    ],
    "worker": [
        "KEYS *", "SCAN 0", "DEL gpner:documents", "DEL gpner:dead", "XTRIM gpner:documents MAXLEN 0",
        "XGROUP DESTROY gpner:documents workers", "GET other:key", "SET other:key x", "FLUSHALL", "FLUSHDB",
        "CONFIG GET *", "CONFIG SET maxmemory 1", "ACL LIST", "SHUTDOWN NOSAVE", "CLIENT KILL TYPE normal",
        "CLIENT TRACKING ON BCAST", "MONITOR", "SCRIPT FLUSH", "EVAL x 0", "PUBLISH other x", "RENAME gpner:dead x",
    ],
    "operator": [
        "KEYS *", "SCAN 0", "GET gpner:result:1", "XREAD STREAMS gpner:reply:x 0", "DEL gpner:documents",
        "DEL gpner:dead", "XDEL gpner:documents 1-1", "XTRIM gpner:dead MAXLEN 0", "FLUSHALL", "CONFIG SET maxmemory 1",
        "ACL LIST", "SHUTDOWN NOSAVE", "MONITOR", "GET gpner:celery-task-meta-1", "XADD gpner:reply:x * a b",
    ],
    "exporter": [
        "KEYS *", "SCAN 0", "GET gpner:result:1", "XRANGE gpner:documents - +", "XINFO STREAM gpner:documents",
        "XREVRANGE gpner:dead + -", "XADD gpner:documents * id 1 text x", "HSET gpner:workers me x", "CONFIG GET *",
        "SLOWLOG GET", "MONITOR", "FLUSHALL", "EVAL x 0", "SCRIPT LOAD x",
    ],
}  # fmt: skip


@needs_secure_redis
@pytest.mark.parametrize(
    ("user", "command"), [(user, command) for user, commands in FORBIDDEN.items() for command in commands]
)
def test_what_a_role_must_not_do_is_refused(server: SecureRedis, user: str, command: str) -> None:
    with server.connect(user) as connection, pytest.raises(NoPermissionError):
        connection.execute_command(*command.split())


@needs_secure_redis
def test_nobody_gets_in_without_a_name_and_a_password(server: SecureRedis) -> None:
    anonymous = server.url("admin").replace(server.url("admin").partition("//")[2].partition("@")[0] + "@", "")

    with Redis.from_url(anonymous, protocol=2) as connection, pytest.raises(AuthenticationError):
        connection.ping()


@pytest.fixture
def plain() -> Iterator[str]:
    """Host and port of a server without TLS, which says so to whoever comes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def refuse() -> None:
            with suppress(OSError):
                while True:
                    with listening.accept()[0] as connection:
                        connection.recv(1000)
                        connection.sendall(b"-ERR unknown command\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


@needs_secure_redis
def test_what_is_wrong_with_a_secure_connection_is_said_in_one_line(
    server: SecureRedis, plain: str, tmp_path: Path
) -> None:
    foreign = Path(__file__)
    mistakes = {
        server.url("producer", ca=server.other_ca): "must be trusted, is not .*with .ssl_ca_certs=/path",
        server.url("producer").partition("?")[0]: "the certificate of Redis at .* must be trusted, is not",
        server.url("producer", host="127.0.0.2"): r"is not \(IP address mismatch.*and the host as the certificate does",
        server.url("producer", ca=tmp_path / "none"): r"must be readable, was: .*/none \(No such file or directory\)",
        server.url("producer", ca=foreign): "must speak TLS on this port, with certificates that fit",
        server.url("producer", password="wrong"): "refused the login; check user and password in GPNER_REDIS_URL",
        server.url("admin").replace("admin:", "nobody:"): "refused the login",
        f"{server.url('producer')}&ssl_ca_cert=x": "leave out options other than db and ssl_",
        f"rediss://{plain}": "must speak TLS on this port",
    }

    for url, expected in mistakes.items():
        with pytest.raises(ServiceError, match=expected) as caught, Client(url) as client:
            client.submit("text")
        assert "\n" not in str(caught.value)


@needs_secure_redis
def test_a_user_without_a_right_hears_which_command_and_which_key(server: SecureRedis) -> None:
    with Client(as_user(server, "exporter")) as exporter, Client(as_user(server, "worker", namespace="a:")) as stranger:
        with pytest.raises(ServiceError, match=r"no right to EVALSHA on gpner:documents:high, gpner:documents, gpner"):
            exporter.submit("text")
        with pytest.raises(ServiceError, match=r"no right to GET on gpner:result:1: .*grant what ops/redis/users\.acl"):
            exporter.result("1", 0)
        with pytest.raises(ServiceError, match=r"no right to GET on a:result:1: .*check GPNER_NAMESPACE"):
            stranger.result("1", 0)


@needs_secure_redis
def test_celery_trusts_no_certificate_that_the_queue_does_not(
    server: SecureRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPNER_REDIS_URL", server.url("worker").partition("?")[0])
    untrusted = celery_connection(load_settings().redis_url)
    monkeypatch.setenv("GPNER_REDIS_URL", server.url("worker"))
    trusted = celery_connection(load_settings().redis_url)

    for options, expected in ((untrusted, "CERTIFICATE_VERIFY_FAILED"), (trusted, None)):
        app = Celery("test", set_as_current=False, **options)
        attempts = [lambda app=app: app.connection().ensure_connection(max_retries=1), app.backend.client.ping]
        for attempt in attempts:
            if expected is None:
                assert attempt()
            else:
                with pytest.raises(Exception, match=expected):
                    attempt()
        app.close()


@needs_secure_redis
@pytest.mark.integration
def test_a_socket_of_this_machine_serves_both_lanes(server: SecureRedis, admin: Redis, tmp_path: Path) -> None:
    secret = quote(server.passwords["worker"], safe="")
    local = Settings(redis_url=f"unix://worker:{secret}@{server.folder}/socket")
    with WorkerProcess(local, "load_capitals", tmp_path / "log") as worker:
        worker.wait_until_ready()
        call = "from worker.app import app; print(app.send_task('gpner.extract', [['ADA in PARIS']]).get(timeout=20))"
        called = run(local, "timeit", "-n1", "-r1", call)

        stats = run(local, *CELERY, "inspect", "stats")

    assert "'text': 'PARIS'" in called.stdout
    assert stats.returncode == 0
    assert not server.leaked(called.stdout + called.stderr + stats.stdout + stats.stderr + worker.log.read_text())


@needs_secure_redis
@pytest.mark.integration
@pytest.mark.slow
def test_no_password_is_in_anything_that_is_said(tmp_path: Path, settings: Settings) -> None:
    with SecureRedis(tmp_path) as server:
        said = []
        operator = as_user(server, "operator")
        with WorkerProcess(as_user(server, "worker"), "load_capitals", tmp_path / "log") as worker:
            worker.wait_until_ready()
            with Client(as_user(server, "producer")) as client:
                client.extract("ADA")
            commands = [
                ["inspect", "stats"],
                ["inspect", "conf"],
                ["inspect", "report"],
                ["inspect", "held"],
                ["report"],
            ]
            said += [run(operator, *CELERY, *command) for command in commands]
            said += [run(operator, "worker.cli", *command) for command in (["status", "--once"], ["dead", "list"])]
            assert all(program.returncode == 0 for program in said)
            server.stop()
            wait_until(lambda: worker.get("/readyz")[0] == 503)
            said.append(run(operator, "worker.cli", "status", "--once"))
            pages = [worker.get(page) for page in ("/readyz", "/livez", "/metrics")]
            server.start()
            wait_until(lambda: worker.get("/readyz")[0] == 200)
            worker.signal(signal.SIGTERM)
            worker.wait()
        for url in (
            server.url("producer", password=f"wrong {server.token}"),
            server.url("worker", ca=server.other_ca),
            f"rediss://worker:{server.passwords['worker']}@127.0.0.1:{server.port}/0",
            f"worker:{server.token}@127.0.0.1:6379",
            f"redis://worker:{server.token}",
            f"redis://127.0.0.1:1/0?password={server.token}&db=0",
            f"redis://127.0.0.1:{server.token}/0",
            f"redis://127.0.0.1:6379/{server.token}",
        ):
            environment = {"GPNER_REDIS_URL": url, "GPNER_ENGINE": "tests.engines:load_capitals"}
            said += [run(settings, "worker.cli", command, **environment) for command in ("start", "status")]
            said.append(run(settings, *CELERY, "report", **environment))

    words = [program.stdout + program.stderr for program in said] + [page for _, page in pages]
    assert pages[0][0] == 503
    assert server.leaked(server.url("worker")), "or the next line proves nothing"
    assert "***@" in worker.log.read_text()
    assert [text for text in [*words, worker.log.read_text()] if server.leaked(text)] == []
