"""A service in which everything happens that a dashboard shows or an alert tells of, measured by a real Prometheus.

The service `gpner` works under load: more arrives than is read, documents fail for several reasons, memory runs out, a
worker is killed, a corpus that came two days ago waits, and a week ago twice as many long words were found. In
`stuck` a forward hangs. In `loading` the only worker never becomes ready, and Redis is full. `away` has no Redis.
"""

import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from redis import Redis

from tests.ops.servers import PROMTOOL, REDIS_EXPORTER, Prometheus, running
from tests.workers import WorkerProcess, wait_until
from worker.connection import connect
from worker.local_redis import LocalRedis, free_port
from worker.protocol import Keys
from worker.settings import RedisUrl, Settings

PROMETHEUS_FOLDER = Path(__file__).parents[2] / "ops/prometheus"
DAY = 86_400
WEEK = 7 * DAY
SCRAPE = {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "2s"}
DOCUMENTS = 12_000
# About six times what two workers do, so that the backlog grows however long the tests take.
ARRIVING_PER_SECOND = 200
BAD_DOCUMENTS = 80


def rules(name: str) -> list[dict[str, Any]]:
    """The rules in one of the files that ship with gpner."""
    content = yaml.safe_load((PROMETHEUS_FOLDER / "rules" / name).read_text(encoding="utf-8"))
    return [rule for group in content["groups"] for rule in group["rules"]]


@dataclass
class Observed:
    """What runs, as its Prometheus sees it."""

    prometheus: Prometheus

    def without_data(self, expressions: Iterable[str], seconds: float = 60) -> set[str]:
        """Those of some queries that return nothing, however often they are asked for so long."""
        empty = set(expressions)
        deadline = time.monotonic() + seconds
        while empty and time.monotonic() < deadline:
            empty = {expression for expression in empty if not self.prometheus.query(expression)}
            time.sleep(0.2)
        return empty


@contextmanager
def observed(folder: Path) -> Iterator[Observed]:
    """Start everything, have it happen, and yield while the load goes on."""
    with ExitStack() as stack:
        main, other = stack.enter_context(LocalRedis()), stack.enter_context(LocalRedis())
        away = free_port()

        def worker(
            name: str, server: LocalRedis, engine: str, namespace: str = "gpner:", **more: object
        ) -> WorkerProcess:
            settings = Settings(redis_url=RedisUrl(server.url), namespace=namespace)
            process = WorkerProcess(settings, engine, folder / f"{name}.log", lease_seconds=2, **more)
            return stack.enter_context(process)

        connection, full = (stack.enter_context(connect(RedisUrl(server.url))) for server in (main, other))
        _hang(connection)
        batches = {"max_batch_tokens": 300, "max_held_tokens": 1200}
        load = "tests.ops.engine:load_measured"
        first, second, killed = (worker(name, main, load, **batches) for name in ("first", "second", "killed"))
        stuck = worker("stuck", main, "load_capitals", "stuck:", max_batch_tokens=1, max_held_tokens=1)
        loading = worker("loading", other, "load_never_warm")
        for process in (first, second, killed, stuck):
            process.wait_until_ready()
        wait_until(lambda: loading.port, what="the port of the worker that loads")
        _fill(connection)
        _leave_no_room(connection, full)
        exporter = free_port()
        stack.enter_context(
            running([REDIS_EXPORTER, f"-web.listen-address=127.0.0.1:{exporter}"], folder / "exporter.log")
        )
        configuration = _configuration(
            {"gpner": [first, second, killed], "stuck": [stuck], "loading": [loading]},
            {"gpner": main.url, "loading": other.url, "away": f"redis://127.0.0.1:{away}"},
            exporter,
        )
        wait_until(lambda: first.metric("gpner_entities_total", label="LONG") > 0, what="an entity")
        _remember_last_week(folder, configuration, first)
        prometheus = stack.enter_context(Prometheus(folder, configuration))
        wait_until(lambda: prometheus.query('gpner:workers_ready:sum{namespace="gpner"} == 3'), 30, "three workers")
        _spoil(connection)
        stack.enter_context(_arriving(connection))
        wait_until(lambda: killed.metric("gpner_documents_in_flight") > 0, what="a document in its hands")
        killed.signal(signal.SIGKILL)
        yield Observed(prometheus)


def _hang(connection: Redis) -> None:
    """In `stuck` one document hangs and others wait, before anything measures it."""
    for number, text in enumerate(("!hang", "ADA", "ADA")):
        connection.xadd("stuck:documents", {"id": str(number), "text": text})


def _text(number: int) -> str:
    return "Ada met BABBAGE in LONDON " + "and then " * (number % 50)


def _fill(connection: Redis) -> None:
    """More in every stream than is done within minutes; what is in bulk is two days old."""
    keys = Keys("gpner:")
    two_days_ago = int(1000 * (time.time() - 2 * DAY))
    with connection.pipeline(transaction=False) as pipeline:
        for number in range(DOCUMENTS):
            text = _text(number)
            pipeline.xadd(keys.normal, {"id": f"normal-{number}", "text": text})
            pipeline.xadd(keys.bulk, {"id": f"bulk-{number}", "text": text}, id=f"{two_days_ago}-{number + 1}")
        pipeline.execute()


@contextmanager
def _arriving(connection: Redis) -> Iterator[None]:
    """The backlog grows within the block."""
    stopping = threading.Event()

    def arrive() -> None:
        while not stopping.wait(1):
            with connection.pipeline(transaction=False) as pipeline:
                for number in range(ARRIVING_PER_SECOND):
                    pipeline.xadd(Keys("gpner:").normal, {"id": f"late-{number}", "text": _text(number)})
                pipeline.execute()

    thread = threading.Thread(target=arrive)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def _spoil(connection: Redis) -> None:
    """Urgent documents that fail for several reasons, or do not fit into memory."""
    bad = [{"text": "!raise"}, {"text": "ADA", "labels": '["NONE"]'}, {"nonsense": "x"}, {"text": "ADA " * 900}]
    for number in range(BAD_DOCUMENTS):
        connection.xadd(Keys("gpner:").high, {"id": f"bad-{number}", **bad[number % len(bad)]})


def _leave_no_room(connection: Redis, full: Redis) -> None:
    """Limits for both: plenty for the one, hardly any for the other."""
    connection.config_set("maxmemory", 1_000_000_000)
    full.config_set("maxmemory", int(full.info("memory")["used_memory"] * 1.02))


def _configuration(workers: dict[str, list[WorkerProcess]], redis: dict[str, str], exporter: int) -> dict[str, Any]:
    """That of ops/prometheus/prometheus.yml, with addresses of this machine and a faster pulse."""
    shipped = yaml.safe_load((PROMETHEUS_FOLDER / "prometheus.yml").read_text(encoding="utf-8"))
    jobs = {job["job_name"]: job for job in shipped["scrape_configs"]}
    measured = jobs["gpner-worker"]
    assert measured.pop("dns_sd_configs") == [
        {
            "names": ["worker"],
            "type": "A",
            "port": Settings.model_fields["metrics_port"].default,
            "refresh_interval": "10s",
        }
    ]
    addresses = {name: [f"127.0.0.1:{worker.port}" for worker in of] for name, of in workers.items()}
    measured["static_configs"] = [{"targets": addresses.pop("gpner")}]
    others = [{"targets": of, "labels": {"job": "gpner-worker", "namespace": name}} for name, of in addresses.items()]
    servers = [
        {
            "job_name": f"redis-{name}",
            "metrics_path": "/scrape",
            "params": {"target": [url]},
            "static_configs": [{"targets": [f"127.0.0.1:{exporter}"], "labels": {"job": "redis", "namespace": name}}],
        }
        for name, url in redis.items()
    ]
    return {
        "global": SCRAPE,
        "rule_files": [str(PROMETHEUS_FOLDER / "rules/*.yml")],
        "scrape_configs": [measured, {"job_name": "others", "static_configs": others}, *servers],
    }


def _remember_last_week(folder: Path, configuration: dict[str, Any], worker: WorkerProcess) -> None:
    """Give Prometheus a history: the worker's counters through a day a week ago, and what the rules make of them.

    Twice as many LONG entities were found then.
    """
    now = time.time()
    counters = re.findall(r"^((gpner_entities|gpner_tokens)_total\S*) (\S+)$", worker.get("/metrics")[1], re.MULTILINE)
    target = f'namespace="gpner",job="gpner-worker",instance="127.0.0.1:{worker.port}"'
    lines = []
    for family in ("gpner_entities", "gpner_tokens"):
        lines.append(f"# TYPE {family} counter")
        for series, _, value in (found for found in counters if found[1] == family):
            labels = ",".join(filter(None, (series.partition("{")[2].rstrip("}"), target)))
            growth = 10 * float(value) * (2 if "LONG" in series else 1)
            lines += [
                f"{family}_total{{{labels}}} {growth * step:g} {now - WEEK - DAY + 600 * step:.0f}"
                for step in range(150)
            ]
    history = folder / "history.txt"
    history.write_text("\n".join([*lines, "# EOF\n"]), encoding="utf-8")
    (folder / "data").mkdir(exist_ok=True)
    promtool("tsdb", "create-blocks-from", "openmetrics", str(history), str(folder / "data"))
    with Prometheus(folder, {**configuration, "scrape_configs": []}) as past:
        promtool(
            "tsdb", "create-blocks-from", "rules", f"--url={past.url}", f"--start={now - WEEK - 600:.0f}",
            f"--end={now - WEEK + 1200:.0f}", "--eval-interval=30s", f"--output-dir={past.data}",
            str(PROMETHEUS_FOLDER / "rules/recording.yml"),
        )  # fmt: skip


def promtool(*arguments: str) -> None:
    """Run promtool; it must succeed."""
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
