"""Twelve minutes of a service for the pictures in docs/images: `python -m tests.ops.story`, from the repository's root.

Real workers, a real Redis and a real Prometheus. A calm start; a burst that the two workers cannot follow; one of them
is killed; two more are started and catch up; documents that fail. The weeks of the Quality picture cannot be waited
for: their series are made up here, with a model that was exchanged two days ago and finds half the dates.
"""

import math
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path

from redis import Redis

from tests.ops.observed import DAY, PROMETHEUS_FOLDER, SCRAPE, promtool
from tests.ops.servers import REDIS_EXPORTER, Prometheus, running
from tests.workers import ROOT, WorkerProcess
from worker.connection import connect
from worker.local_redis import LocalRedis, free_port
from worker.metrics import SCORES, TOKENS, WINDOWS
from worker.protocol import Keys
from worker.settings import RedisUrl, Settings

MINUTES = 12
HISTORY_DAYS = 10
STEP = 300
# Entities per thousand tokens, and how sure the model is of them: the exponent of a uniform number between 0 and 1.
LABELS = {"PER": (18.0, 5.0), "ORG": (11.0, 3.0), "LOC": (8.0, 4.0), "DATE": (6.0, 2.5)}
KEYS = Keys("gpner:")


def main() -> None:
    """Play it and draw it."""
    with tempfile.TemporaryDirectory() as folder:
        _play(Path(folder))


def _play(folder: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(LocalRedis())
        connection = stack.enter_context(connect(RedisUrl(server.url)))
        connection.config_set("maxmemory", 12_000_000)
        ports = [free_port() for _ in range(4)]
        exporter = free_port()
        stack.enter_context(
            running(
                [REDIS_EXPORTER, f"-web.listen-address=127.0.0.1:{exporter}", f"-redis.addr={server.url}"],
                folder / "exporter.log",
            )
        )
        _write_history(folder)
        prometheus = stack.enter_context(Prometheus(folder, _configuration(ports, exporter)))
        weeks = ("--only", "quality", "--namespace", "weeks", "--minutes", 4 * DAY // 60, "--rate-interval", "1h")
        _draw(prometheus.url, *weeks)

        def start(port: int) -> WorkerProcess:
            settings = Settings(redis_url=RedisUrl(server.url))
            more = {"max_batch_tokens": 300, "max_held_tokens": 1200, "lease_seconds": 10, "metrics_port": port}
            return stack.enter_context(
                WorkerProcess(settings, "tests.ops.engine:load_measured", folder / f"{port}.log", **more)
            )

        first = [start(port).wait_until_ready() for port in ports[:2]]
        events = {4.0: lambda: first[1].signal(signal.SIGKILL), 6.0: lambda: [start(port) for port in ports[2:]]}
        _produce(connection, events)
        _draw(prometheus.url, "--only", "overview", "--minutes", MINUTES, "--rate-interval", "30s")


def _produce(connection: Redis, events: Mapping[float, Callable[[], object]]) -> None:
    """Enqueue as time goes by, and have things happen at their minutes."""
    chance = random.Random(7)
    started = time.monotonic()
    for number in range(MINUTES * 60):
        minute = number / 60
        for _ in range(40 if 3 <= minute < 5.5 else 14):
            _enqueue(connection, KEYS.normal, chance)
        _enqueue(connection, KEYS.high, chance)
        if number == 60:
            for _ in range(600):
                _enqueue(connection, KEYS.bulk, chance)
        if 8 <= minute < 9 and number % 3 == 0:
            connection.xadd(KEYS.normal, chance.choice([{"text": "x"}, {"id": "b", "text": "!raise"}]))
        if event := events.get(minute):
            event()
        time.sleep(max(0.0, started + number + 1 - time.monotonic()))


def _enqueue(connection: Redis, stream: str, chance: random.Random) -> None:
    words = min(350, int(chance.lognormvariate(4, 0.7)))
    text = "Ada met BABBAGE in LONDON " + "word " * words
    connection.xadd(stream, {"id": f"{chance.getrandbits(64):x}", "text": text})


def _configuration(ports: list[int], exporter: int) -> dict[str, object]:
    labels = {"namespace": "gpner"}
    workers = [f"127.0.0.1:{port}" for port in ports]
    return {
        "global": SCRAPE,
        "rule_files": [str(PROMETHEUS_FOLDER / "rules/*.yml")],
        "scrape_configs": [
            {"job_name": "gpner-worker", "static_configs": [{"targets": workers, "labels": labels}]},
            {"job_name": "redis", "static_configs": [{"targets": [f"127.0.0.1:{exporter}"], "labels": labels}]},
        ],
    }


def _write_history(folder: Path) -> None:
    """Ten days of a service called `weeks`."""
    text = folder / "history.txt"
    text.write_text("\n".join(_history(time.time())) + "\n# EOF\n", encoding="utf-8")
    (folder / "data").mkdir()
    promtool("tsdb", "create-blocks-from", "openmetrics", str(text), str(folder / "data"))


def _history(now: float) -> Iterator[str]:
    """Counters as a worker would have shown them, in the format of OpenMetrics."""
    chance = random.Random(3)
    target = 'namespace="weeks",job="gpner-worker",instance="10.0.0.5:9108"'
    times = [now - STEP * step for step in reversed(range(HISTORY_DAYS * DAY // STEP))]
    # Twice as much by day as by night, and little on Sundays.
    tokens = [
        STEP * 2000 * (1.2 + math.sin(2 * math.pi * moment / DAY)) * (0.4 if time.gmtime(moment).tm_wday == 6 else 1)
        * chance.uniform(0.9, 1.1) for moment in times
    ]  # fmt: skip
    yield "# TYPE gpner_tokens counter"
    yield from _samples("gpner_tokens_total", target, times, tokens)
    found = {
        label: [n / 1000 * rate * chance.uniform(0.9, 1.1) * (0.5 if label == "DATE" and now - moment < 2 * DAY else 1)
                for n, moment in zip(tokens, times, strict=True)]
        for label, (rate, _) in LABELS.items()
    }  # fmt: skip
    yield "# TYPE gpner_entities counter"
    for label, counts in found.items():
        yield from _samples("gpner_entities_total", f'label="{label}",{target}', times, counts)
    yield from _recorded(target, times, tokens, found)
    yield "# TYPE gpner_entity_score histogram"
    for label, (_, sureness) in LABELS.items():
        sure = [sureness * (0.5 if label == "DATE" and now - moment < 2 * DAY else 1) for moment in times]
        for score in (*SCORES, math.inf):
            # The share of numbers 1 - u**k / 2 at most that large, for uniform u.
            share = [1 - (2 * (1 - min(score, 1.0))) ** (1 / k) if score < 1 else 1.0 for k in sure]
            counts = [n * part for n, part in zip(found[label], share, strict=True)]
            bound = "+Inf" if math.isinf(score) else str(score)
            yield from _samples("gpner_entity_score_bucket", f'label="{label}",le="{bound}",{target}', times, counts)
        total = [n * (1 - 0.5 / (k + 1)) for n, k in zip(found[label], sure, strict=True)]
        yield from _samples("gpner_entity_score_sum", f'label="{label}",{target}', times, total)
        yield from _samples("gpner_entity_score_count", f'label="{label}",{target}', times, found[label])
    documents = [n / 700 for n in tokens]
    for name, buckets, middle in (("document_tokens", TOKENS, 500.0), ("document_windows", WINDOWS, 0.8)):
        yield f"# TYPE gpner_{name} histogram"
        for bound in (*buckets, math.inf):
            share = 0.5 * (1 + math.erf(math.log(bound / middle) / math.sqrt(2))) if bound < math.inf else 1.0
            counts = [n * share for n in documents]
            text = "+Inf" if math.isinf(bound) else str(float(bound))
            yield from _samples(f"gpner_{name}_bucket", f'le="{text}",{target}', times, counts)
        yield from _samples(f"gpner_{name}_sum", target, times, [n * middle * 1.65 for n in documents])
        yield from _samples(f"gpner_{name}_count", target, times, documents)


def _recorded(target: str, times: list[float], tokens: list[float], found: dict[str, list[float]]) -> Iterator[str]:
    """What the rules would have recorded; promtool takes minutes to do it for ten days."""
    day, week = DAY // STEP, 7 * DAY // STEP
    rates = {
        label: [1000 * sum(counts[i - day : i]) / sum(tokens[i - day : i]) for i in range(day, len(times))]
        for label, counts in found.items()
    }
    yield "# TYPE gpner:entities_per_1000_tokens:rate1d gauge"
    for label, values in rates.items():
        for moment, value in zip(times[day:], values, strict=True):
            yield f'gpner:entities_per_1000_tokens:rate1d{{namespace="weeks",label="{label}"}} {value:.4f} {moment:.0f}'
    yield "# TYPE gpner:entity_rate:ratio1w gauge"
    for label, values in rates.items():
        for moment, value, before in zip(times[day + week :], values[week:], values, strict=False):
            yield f'gpner:entity_rate:ratio1w{{namespace="weeks",label="{label}"}} {value / before:.4f} {moment:.0f}'


def _samples(name: str, labels: str, times: list[float], counts: list[float]) -> Iterator[str]:
    for moment, value in zip(times, accumulate(counts), strict=True):
        yield f"{name}{{{labels}}} {value:.1f} {moment:.0f}"


def _draw(url: str, *options: object) -> None:
    images = ROOT / "docs/images"
    images.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "ops.grafana.render", url, images, *options]
    subprocess.run([str(part) for part in command], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
