"""The size of a batch that the worker finds by itself."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from gpner.checkpoint import save_checkpoint
from gpner.errors import DocumentError, OutOfMemoryError
from gpner.extractor import Extractor
from tests.models import tiny_text_model
from worker.batch_tokens import FEWEST, MOST, MOST_ON_CPU, find_batch_tokens, kept_or_found, tokens_per_second
from worker.engine import load_engine
from worker.settings import Settings


def costing(seconds_a_token: float, seconds_a_batch: float) -> Callable[[int], float]:
    return lambda tokens: tokens / (seconds_a_batch + seconds_a_token * tokens)


@pytest.mark.parametrize(
    ("speed_of", "best"),
    [
        (costing(1e-9, 0), FEWEST),  # never any faster
        (costing(1e-6, 1e-3), 32_768),  # twice as many are 1.5 % faster, any number 3 %
        (costing(0, 1e-3), MOST),  # always twice as fast
    ],
)
def test_batches_grow_as_long_as_that_makes_them_faster(speed_of: Callable[[int], float], best: int) -> None:
    assert find_batch_tokens(speed_of, MOST) == best


def test_one_slow_run_does_not_end_the_search() -> None:
    assert find_batch_tokens(lambda tokens: 1000 if tokens == 2048 else min(tokens, 16_384), MOST) == 16_384


def test_no_batch_is_tried_that_takes_longer_than_some_seconds() -> None:
    tried = []

    def speed_of(tokens: int) -> float:
        tried.append(tokens)
        return 500 + tokens / 1000  # still rising

    find_batch_tokens(speed_of, MOST)

    assert tried == [1024, 2048]


@pytest.mark.parametrize("error", [OutOfMemoryError, DocumentError])
def test_batches_grow_no_further_than_memory_and_what_a_batch_may_find(
    error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    def speed_of(tokens: int) -> float:
        if tokens > 5000:
            raise error("too many")
        return tokens

    with caplog.at_level("INFO"):
        assert find_batch_tokens(speed_of, MOST) == 4096
    assert "batches of 8192 tokens do not fit: too many" in caplog.text


def test_a_device_without_room_for_the_smallest_batch_is_an_error() -> None:
    def speed_of(tokens: int) -> float:
        raise OutOfMemoryError("too many")

    with pytest.raises(OutOfMemoryError):
        find_batch_tokens(speed_of, MOST)


def test_a_trial_runs_the_model_and_changes_nothing(wordpiece_tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny_text_model(wordpiece_tokenizer, context=64)
    extractor = Extractor(model, wordpiece_tokenizer, model_name="tiny", max_batch_tokens=300)

    assert tokens_per_second(extractor, 2048) > 0

    assert extractor.max_batch_tokens == 300


def test_what_was_found_is_kept_for_the_same_model_and_device_alone(tmp_path: Path) -> None:
    cache = tmp_path / "new" / "cache"

    first = kept_or_found(cache, "a model", lambda: 2048)
    again = kept_or_found(cache, "a model", lambda: 4096)
    other = kept_or_found(cache, "another model", lambda: 8192)

    assert (first, again, other) == (2048, 2048, 8192)
    kept = [json.loads(file.read_text()) for file in cache.iterdir()]
    assert {of["of"]: of["batch_tokens"] for of in kept} == {"a model": 2048, "another model": 8192}
    assert len(kept) == 2


@pytest.mark.parametrize(
    "content",
    ["", '{"batch_tokens": ', "[]", "{}", '{"batch_tokens": "many"}', '{"batch_tokens": 3}', '{"batch_tokens": 1e400}'],
)
def test_a_kept_answer_that_is_of_no_use_is_replaced(tmp_path: Path, content: str) -> None:
    kept_or_found(tmp_path, "a model", lambda: 2048)
    (file,) = tmp_path.iterdir()
    file.write_text(content)

    assert kept_or_found(tmp_path, "a model", lambda: 4096) == 4096

    assert json.loads(file.read_text())["batch_tokens"] == 4096


def test_a_folder_that_cannot_be_written_costs_only_the_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()

    assert kept_or_found(tmp_path / "file" / "cache", "a model", lambda: 2048) == 2048

    assert "must be writable for the next start to be quicker" in caplog.text


def test_a_model_is_tried_once_unless_the_operator_says_how_large_batches_are(
    settings: Settings, tmp_path: Path, wordpiece_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save_checkpoint(
        tiny_text_model(wordpiece_tokenizer, thresholds=[8.0, 8.0]), wordpiece_tokenizer, tmp_path / "model"
    )
    automatic = settings.model_copy(update={"model": str(tmp_path / "model"), "device": "cpu", "max_batch_tokens": 0})

    given = load_engine(automatic.model_copy(update={"max_batch_tokens": 700})).max_batch_tokens
    cache_untouched = not (tmp_path / "cache").exists()
    found = load_engine(automatic).max_batch_tokens
    (file,) = (tmp_path / "cache" / "gpner").iterdir()
    file.write_text(file.read_text().replace(str(found), str(MOST)))
    kept = load_engine(automatic).max_batch_tokens

    assert (given, cache_untouched) == (700, True)
    assert FEWEST <= found <= MOST_ON_CPU
    assert kept == MOST
