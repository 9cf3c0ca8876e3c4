"""What Prometheus and a supervisor see of a worker."""

import socket
import struct
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from importlib.metadata import version
from typing import get_args

import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from gpner.errors import ServiceError
from tests.consumers import LEASE_SECONDS, Join, add
from tests.engines import load_capitals
from tests.workers import wait_until
from worker.client import Client
from worker.health import HealthServer, check_port
from worker.metrics import SCORES, TOKENS, BatchHistogram, Metrics, queue_families
from worker.outcomes import FailureReason
from worker.protocol import Keys
from worker.pump import Pump
from worker.queue import DocumentQueue
from worker.settings import Settings

KEYS = Keys("test:")


def get(port: int, path: str, accept: str = "*/*") -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def samples(page: str) -> dict[tuple[str, ...], float]:
    """Name and label values of every sample."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_a_worker_counts_what_it_does(settings: Settings, redis: Redis) -> None:
    pump = Pump(settings.model_copy(update={"metrics_port": 0}), load_capitals, device="cpu")
    pump.start()
    with Client(settings) as client:
        list(client.extract_many(["ADA in LONDON", "ADA", "!raise", ""]))
        redis.xadd(KEYS.normal, {"id": "bad"})
        wait_until(lambda: redis.exists(KEYS.result("bad")))
    wait_until(
        lambda: samples(get(pump.health.port, "/metrics")[1]).get(("gpner_documents_total", "failed", "malformed"))
    )

    found = samples(get(pump.health.port, "/metrics")[1])
    pump.stop()

    assert found["gpner_documents_total", "done", ""] == 3
    assert found["gpner_documents_total", "failed", "engine_error"] == 1
    assert found["gpner_documents_total", "failed", "malformed"] == 1
    assert found["gpner_tokens_total",] == 4
    assert found["gpner_entities_total", "WORD"] == 2
    assert found["gpner_entities_total", "LONG"] == 1
    assert found["gpner_document_duration_seconds_count",] == 3
    assert found["gpner_document_tokens_sum",] == 4
    for stage in ("queue", "tokenize", "batch", "forward", "decode", "commit"):
        assert found["gpner_stage_duration_seconds_count", stage] > 0
    assert found["gpner_batch_documents_sum",] >= 3
    assert found["gpner_batch_tokens_sum",] >= 4
    assert found["gpner_batch_fill_ratio_count",] > 0
    assert found["gpner_max_batch_tokens",] == 4096
    assert found["gpner_queue_depth", KEYS.normal] == 0
    assert found["gpner_queue_oldest_age_seconds", KEYS.normal] == 0
    assert found["gpner_document_windows_sum",] == 3
    assert found["gpner_entity_score_count", "WORD"] == 2
    assert found["gpner_entity_score_bucket", "WORD", "0.5"] == 2
    assert found["gpner_entity_score_sum", "LONG"] == 0.5
    assert found["gpner_documents_in_flight",] == 0
    assert found["gpner_dead_letters",] == 2
    assert found["gpner_redelivered_total",] == 0
    assert found["gpner_model_flops_total",] >= 4
    assert found["gpner_out_of_memory_total",] == 0
    assert found["gpner_device_peak_flops",] == 1e9
    assert found["gpner_process_start_time_seconds",] > 0
    assert found["gpner_worker_info", version("gpner")] == 1
    assert found["gpner_device_memory_bytes",] > 0
    assert found["gpner_model_info", "cpu", "capitals", "0123456789ab"] == 1
    assert found["gpner_ready",] == 1


def test_documents_of_workers_that_died_count_as_redelivered_and_those_handed_back_do_not(
    settings: Settings, join: Join
) -> None:
    other = join("other")
    add(other, 5)
    handed_back, left_behind = other.read(3, 0), other.read(2, 0)
    other.release(handed_back)
    pump = Pump(
        settings.model_copy(update={"metrics_port": 0, "lease_seconds": LEASE_SECONDS}), load_capitals, device="cpu"
    )

    pump.start()
    wait_until(lambda: not other.unfinished(KEYS.normal)[0])
    found = samples(get(pump.health.port, "/metrics")[1])
    pump.stop()

    assert found["gpner_redelivered_total",] == len(left_behind)


def test_every_metric_has_help_and_base_units_and_no_document_in_a_label() -> None:
    families = [*Metrics().registry.collect(), *queue_families()]

    assert len(families) > 15
    for family in families:
        assert family.name.startswith("gpner_")
        assert len(family.documentation) > 20
        assert not family.name.endswith(("_ms", "_milliseconds", "_kb", "_percent"))


def test_what_may_come_to_be_counted_is_counted_from_nought() -> None:
    metrics = Metrics()
    metrics.expect_labels(["PER"])

    found = {
        (sample.name, *sample.labels.values()) for family in metrics.registry.collect() for sample in family.samples
    }

    assert {("gpner_documents_total", "failed", reason) for reason in get_args(FailureReason)} < found
    assert {("gpner_entities_total", "PER"), ("gpner_entity_score_count", "PER")} < found


@pytest.mark.parametrize("buckets", [SCORES, TOKENS])
@pytest.mark.parametrize("label", ["label", None])
def test_a_batch_is_counted_as_its_documents_one_by_one(buckets: tuple[float, ...], label: str | None) -> None:
    observations = [0.3, 0.5, 0.51, 0.95, 0.991, 1.0, 17, 2_000_000]
    together = BatchHistogram("x", "x", buckets, label=label, registry=None)
    one_by_one = Histogram("x", "x", [label] if label else [], buckets=(*buckets, float("inf")), registry=None)

    together.add(observations, "PER" if label else "")
    for observation in observations:
        (one_by_one.labels("PER") if label else one_by_one).observe(observation)

    (ours,), (theirs,) = together.collect(), one_by_one.collect()
    expected = [(sample.name, sample.labels, sample.value) for sample in theirs.samples]
    assert [(sample.name, sample.labels, sample.value) for sample in ours.samples] == expected


def test_depth_and_age_are_those_of_the_queue(settings: Settings, redis: Redis) -> None:
    metrics, queue = Metrics(), DocumentQueue(settings, consumer="test")
    metrics.measure_queue(queue, reading=lambda: True)
    redis.xadd(KEYS.bulk, {"id": "1", "text": "x"}, id="1-1")
    redis.xadd(KEYS.high, {"id": "1", "text": "x"})

    found = {
        (sample.name, sample.labels.get("stream")): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
    }
    queue.close()

    assert [found["gpner_queue_depth", stream] for stream in KEYS.streams] == [1, 0, 1]
    assert found["gpner_queue_oldest_age_seconds", KEYS.high] < 60
    assert found["gpner_queue_oldest_age_seconds", KEYS.normal] == 0
    assert found["gpner_queue_oldest_age_seconds", KEYS.bulk] > 365 * 86_400


def test_a_scrape_without_redis_still_shows_the_worker(settings: Settings) -> None:
    metrics = Metrics()
    queue = DocumentQueue(
        settings.model_copy(update={"redis_url": type(settings.redis_url)("redis://127.0.0.1:1/0")}), consumer="x"
    )
    metrics.measure_queue(queue, reading=lambda: True)

    found = {sample.name: sample.value for family in metrics.registry.collect() for sample in family.samples}
    queue.close()

    assert "gpner_queue_depth" not in found
    assert "gpner_tokens_total" in found
    assert found["gpner_ready"] == 0


def test_a_scrape_waits_for_a_silent_redis_only_once(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        queue = DocumentQueue(settings.model_copy(update={"redis_url": type(settings.redis_url)(url)}), consumer="x")
        queue.redis.connection_pool.connection_kwargs["socket_timeout"] = 0.2
        metrics = Metrics()
        metrics.measure_queue(queue, reading=lambda: True)

        found = {sample.name: sample.value for family in metrics.registry.collect() for sample in family.samples}
        queue.close()

        silent.setblocking(False)
        tries = 0
        with suppress(BlockingIOError):
            while True:
                silent.accept()[0].close()
                tries += 1

    assert tries == 1
    assert found["gpner_ready"] == 0


def test_health_says_what_is_wrong() -> None:
    problems: dict[str, str | None] = {"alive": None, "ready": "the model is loading"}
    registry = Metrics().registry
    server = HealthServer(
        "127.0.0.1", 0, registry=registry, alive=lambda: problems["alive"], ready=lambda: problems["ready"]
    )

    loading = get(server.port, "/livez"), get(server.port, "/readyz")
    problems.update(alive="thread forward failed", ready=None)
    broken = get(server.port, "/livez"), get(server.port, "/readyz")
    unknown = get(server.port, "/")
    server.close()

    assert loading == ((200, "ok\n"), (503, "the model is loading\n"))
    assert broken == ((503, "thread forward failed\n"), (200, "ok\n"))
    assert unknown[0] == 404


def test_a_client_that_says_nothing_is_given_up() -> None:
    server = HealthServer(
        "127.0.0.1", 0, registry=CollectorRegistry(), alive=lambda: None, ready=lambda: None, client_seconds=0.1
    )

    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        rest = client.recv(1)
    server.close()

    assert rest == b""


def test_a_probe_that_gives_up_leaves_no_trace(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    asked, gave_up = threading.Event(), threading.Event()
    handler: list[threading.Thread] = []

    def ready() -> str | None:
        handler.append(threading.current_thread())
        asked.set()
        gave_up.wait(10)
        return None

    server = HealthServer("127.0.0.1", 0, registry=CollectorRegistry(), alive=lambda: None, ready=ready)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        assert asked.wait(10)
        # Closed like this, the connection is reset at once.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    gave_up.set()
    handler[0].join(10)
    server.close()

    assert capfd.readouterr().err == ""
    assert caplog.text == ""


def test_what_fails_in_a_request_is_logged(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    def alive() -> str | None:
        raise ValueError("no verdict")

    server = HealthServer("127.0.0.1", 0, registry=CollectorRegistry(), alive=alive, ready=lambda: None)

    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert client.recv(1) == b""
    wait_until(lambda: "a request for health or metrics failed" in caplog.text)
    server.close()

    assert "Traceback" not in capfd.readouterr().err


def test_prometheus_gets_openmetrics_if_it_asks_for_them() -> None:
    server = HealthServer("127.0.0.1", 0, registry=Metrics().registry, alive=lambda: None, ready=lambda: None)

    _, page = get(server.port, "/metrics", accept="application/openmetrics-text; version=1.0.0")
    server.close()

    assert {family.name for family in parse_openmetrics(page)} >= {
        "gpner_tokens",
        "gpner_model",
        "gpner_max_batch_tokens",
    }


def test_a_taken_port_and_a_foreign_address_are_refused_with_advice() -> None:
    server = HealthServer("127.0.0.1", 0, registry=CollectorRegistry(), alive=lambda: None, ready=lambda: None)

    with pytest.raises(ServiceError, match=f"port {server.port} is taken: .* set GPNER_METRICS_PORT"):
        check_port("127.0.0.1", server.port)
    server.close()

    with pytest.raises(ServiceError, match=r"cannot listen on 192\.0\.2\.1: .* set GPNER_METRICS_HOST"):
        check_port("192.0.2.1", 0)
