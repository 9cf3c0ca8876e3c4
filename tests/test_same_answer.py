"""A document has one answer: whatever it is batched with, in what order, by how many workers, in packs of what size."""

import random
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from transformers import PreTrainedTokenizerFast

from gpner.checkpoint import save_checkpoint
from gpner.errors import CheckpointError
from tests.models import tiny_text_model
from tests.workers import WorkerProcess, wait_until
from worker.client import Client
from worker.demo.model import demo_model
from worker.demo.run import read_documents
from worker.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

WORKERS = "worker.engine:load_extractor"
# All of a result but its id and the seconds that it took.
SAME = {"status", "entities", "tokens", "windows", "revision"}
# Workers, and tokens of a pack. Each reads the documents twice, in different orders.
WAYS = [(1, 4096), (3, 512)]


def texts_of_all_lengths() -> list[str]:
    """Whole documents of the demo, their paragraphs and their sentences."""
    whole = [document.text for document in read_documents()][:4]
    paragraphs = [paragraph for text in whole for paragraph in text.split("\n\n")]
    sentences = [sentence for text in whole for sentence in text.split(". ")]
    return [*whole, *paragraphs, *sentences, "", "x"]


def answers_of(
    settings: Settings, store: Redis, folder: Path, texts: list[str], n_workers: int, options: Mapping[str, object]
) -> Iterator[dict[str, Any]]:
    """What real workers answer, by text, twice: the part of the results that must always be the same."""
    folder.mkdir()
    with ExitStack() as stack, Client(settings) as client:
        workers = [
            stack.enter_context(WorkerProcess(settings, WORKERS, folder / f"log{number}", **options))
            for number in range(n_workers)
        ]
        for worker in workers:
            wait_until(lambda worker=worker: worker.get("/readyz")[0] == 200, 60)
        for seed in (1, 2):
            shuffled = random.Random(seed).sample(texts, len(texts))
            found = [client.result(name, timeout_seconds=60) for name in client.submit_many(shuffled)]
            yield {text: answer.model_dump(include=SAME) for text, answer in zip(shuffled, found, strict=True)}
        assert all(worker.metric("gpner_documents_total", outcome="done") for worker in workers)


def check(settings: Settings, store: Redis, folder: Path, model: Path) -> None:
    """Every way of reading the same documents gives the same answers, to the last bit of a score."""
    texts = list(dict.fromkeys(texts_of_all_lengths()))
    answers: list[dict[str, Any]] = []
    for n_workers, max_batch_tokens in WAYS:
        options = {"model": model, "cpu_threads": 1, "max_batch_tokens": max_batch_tokens, "max_held_tokens": 4096}
        answers += answers_of(settings, store, folder / f"{n_workers}", texts, n_workers, options)

    first, *others = answers
    assert len(others) == 3
    assert sum(len(answer["entities"]) for answer in first.values()) > 100
    for other in others:
        assert other == first


def test_a_small_model_gives_the_same_bytes_whatever_the_workers_packs_and_order(
    settings: Settings, store: Redis, tmp_path: Path, wordpiece_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = tiny_text_model(wordpiece_tokenizer, thresholds=[3.0, 3.0])
    save_checkpoint(model, wordpiece_tokenizer, tmp_path / "model")

    check(settings, store, tmp_path, tmp_path / "model")


def test_the_demos_model_gives_the_same_bytes_whatever_the_workers_packs_and_order(
    settings: Settings, store: Redis, tmp_path: Path
) -> None:
    try:
        model = demo_model()
    except CheckpointError as error:
        pytest.skip(str(error))

    check(settings, store, tmp_path, model)
