"""The memory of a worker is bounded by what it may hold, whatever waits in the queue and however long a document is."""

import json
import signal
import time
from pathlib import Path

import pytest
from redis import Redis
from transformers import PreTrainedTokenizerFast

from gpner.checkpoint import save_checkpoint
from tests.models import tiny_text_model
from tests.workers import WorkerProcess, wait_until
from worker.protocol import Keys
from worker.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.slow]

KEYS = Keys("test:")
BACKLOG = 200_000
MEGABYTE = 1_000_000
# The longest document that settings allow, in words of five characters.
LONGEST = "word " * 1_000_000


def peak_bytes(worker: WorkerProcess) -> int:
    """The most memory that a process ever had."""
    status = Path(f"/proc/{worker.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return 1024 * int(line.split()[1])


def enqueue(store: Redis, count: int, text: str, prefix: str = "") -> None:
    pipeline = store.pipeline(transaction=False)
    for number in range(count):
        pipeline.xadd(KEYS.normal, {"id": f"{prefix}{number}", "text": text})
        if len(pipeline) == 1000 or len(pipeline) * len(text) > 5 * MEGABYTE:
            pipeline.execute()
    pipeline.execute()


def finished(store: Redis, worker: WorkerProcess) -> bool:
    assert worker.ended() is None
    time.sleep(0.1)
    return not store.xlen(KEYS.normal)


def done(worker: WorkerProcess) -> float:
    """The documents that it counts, each a moment after it is committed."""
    return worker.metric("gpner_documents_total", outcome="done")


def test_a_backlog_of_200_000_documents_costs_a_worker_no_more_than_a_short_one(
    settings: Settings, store: Redis, tmp_path: Path
) -> None:
    with WorkerProcess(settings, "load_noop", tmp_path / "log", result_ttl_seconds=60) as worker:
        worker.wait_until_ready()
        enqueue(store, 1000, "ADA met BABBAGE " * 12, "short ")
        wait_until(lambda: finished(store, worker), 20)
        short = peak_bytes(worker)
        worker.signal(signal.SIGSTOP)
        enqueue(store, BACKLOG, "ADA met BABBAGE " * 12, "long ")
        worker.signal(signal.SIGCONT)

        wait_until(lambda: finished(store, worker), 100)

        wait_until(lambda: done(worker) == 1000 + BACKLOG, what="the count of all")
        grown = peak_bytes(worker) - short
    assert grown < 30 * MEGABYTE


def test_the_longest_documents_in_a_row_cost_about_what_one_costs(
    settings: Settings, store: Redis, tmp_path: Path
) -> None:
    with WorkerProcess(settings, "load_noop", tmp_path / "log", lease_seconds=600) as worker:
        worker.wait_until_ready()
        enqueue(store, 1, LONGEST, "first ")
        wait_until(lambda: finished(store, worker), 20)
        one = peak_bytes(worker)

        worker.signal(signal.SIGSTOP)
        enqueue(store, 2000, "ADA", "short ")  # so that the worker takes all for short
        enqueue(store, 64, LONGEST, "in a row ")
        worker.signal(signal.SIGCONT)
        wait_until(lambda: finished(store, worker), 100)

        wait_until(lambda: done(worker) == 65 + 2000, what="the count of all")
        many = peak_bytes(worker)
    assert many - one < 100 * MEGABYTE


def test_the_longest_document_of_all_is_read_by_a_real_model_in_bounded_memory(
    settings: Settings, store: Redis, tmp_path: Path, wordpiece_tokenizer: PreTrainedTokenizerFast
) -> None:
    sentence = "Ada met Babbage in London, near the Thames. "
    text = (sentence * (settings.max_document_characters // len(sentence) + 1))[: settings.max_document_characters]
    save_checkpoint(
        tiny_text_model(wordpiece_tokenizer, thresholds=[8.0, 8.0]), wordpiece_tokenizer, tmp_path / "model"
    )
    options = {"model": tmp_path / "model", "cpu_threads": 1, "max_batch_tokens": 4096}

    with WorkerProcess(settings, "worker.engine:load_extractor", tmp_path / "log", **options) as worker:
        worker.wait_until_ready()
        before = peak_bytes(worker)
        enqueue(store, 1, text)
        wait_until(lambda: finished(store, worker), 100)
        grown = peak_bytes(worker) - before

    answer = json.loads(store.get(KEYS.result("0")))
    assert answer["status"] == "done"
    assert answer["tokens"] > 1_000_000
    # About 600 bytes a token, most of them the offsets.
    assert grown < 1500 * MEGABYTE
