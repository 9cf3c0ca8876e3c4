"""Texts in, entities out, through the one inference path."""

import copy
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpner.checkpoint import checkpoint_revision, save_checkpoint
from gpner.entities import Extraction
from gpner.errors import ConfigError, DocumentError
from gpner.extractor import Extractor, place
from gpner.prepacked import Int8Linear, multiplies_int8
from tests.models import tiny_text_model

needs_int8 = pytest.mark.skipif(not multiplies_int8(), reason="needs a CPU that multiplies int8 exactly")
WORDS = [
    "Ann",
    "met",
    "the",
    "mayor",
    "of",
    "Lisbon",
    "at",
    "Harbour",
    "House",
    "near",
    "river",
    "Tagus",
    "while",
    "李明",
    "watched",
    "naïve",
    "👩\u200d🚀",
    "sailors",
]


@pytest.fixture(scope="module")
def extractor(wordpiece_tokenizer):
    return Extractor(
        tiny_text_model(wordpiece_tokenizer, context=64, stride=16), wordpiece_tokenizer, model_name="tiny"
    )


def long_text(n_words: int, seed: int = 0) -> str:
    chooser = random.Random(seed)
    return " ".join(chooser.choice(WORDS) for _ in range(n_words))


def same(left: Extraction, right: Extraction) -> bool:
    """Whether two extractions agree: the same spans, and scores within what fp32 can tell."""
    spans = [[(e.start, e.end, e.label, e.text) for e in extraction.entities] for extraction in (left, right)]
    scores = [[e.score for e in extraction.entities] for extraction in (left, right)]
    return spans[0] == spans[1] and scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_entities_cut_exactly_their_text_and_come_in_order(extractor):
    text = long_text(300)

    (extraction,) = extractor.extract([text])

    assert extraction.entities
    assert extraction.windows > 1
    for entity in extraction.entities:
        assert text[entity.start : entity.end] == entity.text
        assert entity.label in extractor.labels
        assert 0.5 < entity.score <= 1.0
    order = [(entity.start, -entity.end, entity.label) for entity in extraction.entities]
    assert order == sorted(order)


@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=300))
def test_any_unicode_text_is_extracted_with_exact_offsets(extractor, text):
    (extraction,) = extractor.extract([text])

    for entity in extraction.entities:
        assert text[entity.start : entity.end] == entity.text != ""


def test_empty_and_blank_texts_have_no_entities_and_no_windows(extractor):
    for extraction in extractor.extract(["", "  \r\n\t "]):
        assert extraction == Extraction(entities=(), tokens=0, windows=0)


def test_a_document_gets_the_same_answer_whatever_it_is_batched_with(extractor):
    texts = [long_text(n, seed=n) for n in (1, 3, 10, 60, 60, 200, 17, 5)]
    alone = [extractor.extract([text])[0] for text in texts]

    together = extractor.extract(texts)
    reversed_order = extractor.extract(texts[::-1])[::-1]

    for single, batched, backwards in zip(alone, together, reversed_order, strict=True):
        assert same(single, batched)
        assert same(single, backwards)


def test_a_document_in_windows_equals_the_same_document_whole_where_it_fits_one_window(wordpiece_tokenizer, extractor):
    roomy = copy.deepcopy(extractor.model)
    roomy.config.context, roomy.config.stride = 512, 64
    whole = Extractor(roomy, wordpiece_tokenizer, model_name="tiny")
    texts = [long_text(n, seed=n) for n in (5, 20, 30)]

    for in_windows, at_once in zip(extractor.extract(texts), whole.extract(texts), strict=True):
        assert in_windows.windows == at_once.windows == 1
        assert same(in_windows, at_once)


@pytest.mark.parametrize("precision", ["auto", pytest.param("int8", marks=needs_int8)])
def test_in_the_precisions_of_use_too_a_batch_changes_nothing(wordpiece_tokenizer, extractor, precision):
    placed = copy.deepcopy(extractor.model)
    place(placed, torch.device("cpu"), precision)
    in_use = Extractor(placed, wordpiece_tokenizer, model_name="tiny")
    texts = [long_text(n, seed=n) for n in (1, 3, 10, 60, 60, 200, 17, 5)]

    alone = [in_use.extract([text])[0] for text in texts]

    assert all(same(batched, single) for batched, single in zip(in_use.extract(texts), alone, strict=True))


def test_a_broken_document_in_a_stream_comes_after_the_results_of_those_before_it(extractor):
    results = extractor.extract_iter(["Ann", "", "bad \ud800", "never read"])

    assert [next(results).windows, next(results).windows] == [1, 0]
    with pytest.raises(DocumentError, match=r"number 2: .*lone surrogate"):
        next(results)


def test_a_stream_that_breaks_off_gives_the_results_of_all_before_that(extractor):
    def stream():
        yield "Ann"
        raise OSError("the disk is gone")

    results = extractor.extract_iter(stream())

    assert next(results).windows == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)


def test_a_stream_of_documents_comes_back_in_order(wordpiece_tokenizer, extractor):
    small = Extractor(extractor.model, wordpiece_tokenizer, model_name="tiny", max_batch_tokens=64)
    texts = [long_text(n, seed=n) for n in (40, 1, 90, 2, 30, 30, 30, 120, 4)]

    streamed = list(small.extract_iter(iter(texts)))

    assert len(streamed) == len(texts)
    assert all(same(one, other) for one, other in zip(streamed, extractor.extract(texts), strict=True))


def test_flat_extraction_has_no_overlaps_and_keeps_the_best(wordpiece_tokenizer, extractor):
    flat = Extractor(extractor.model, wordpiece_tokenizer, model_name="tiny", flat=True)
    text = long_text(100)

    (nested,) = extractor.extract([text])
    (kept,) = flat.extract([text])

    assert max(nested.entities, key=lambda e: (e.score, e.end - e.start, -e.start)) in kept.entities
    assert set(kept.entities) < set(nested.entities)
    assert all(left.end <= right.start for left, right in zip(kept.entities, kept.entities[1:], strict=False))


def test_a_saved_model_extracts_the_same_to_the_bit(tmp_path, wordpiece_tokenizer, extractor):
    save_checkpoint(extractor.model, wordpiece_tokenizer, tmp_path / "model")
    placed = copy.deepcopy(extractor.model)
    place(placed, torch.device("cpu"))
    original = Extractor(placed, wordpiece_tokenizer, model_name="model")

    loaded = Extractor.from_pretrained(tmp_path / "model", device="cpu")

    assert loaded.model_name == original.model_name
    assert loaded.model_revision == checkpoint_revision(tmp_path / "model")
    assert loaded.extract([long_text(200)]) == original.extract([long_text(200)])


@needs_int8
def test_int8_finds_what_is_clear_cut_and_its_answers_say_what_they_are(tmp_path, wordpiece_tokenizer, extractor):
    save_checkpoint(extractor.model, wordpiece_tokenizer, tmp_path / "model")
    in_int8 = Extractor.from_pretrained(tmp_path / "model", device="cpu", precision="int8", flat=True)
    text = long_text(100)

    (expected,), (found,) = (list(each.candidates([text], -40.0)) for each in (extractor, in_int8))

    assert len(expected) > 100
    assert found == pytest.approx(expected, abs=0.25)  # of logits between -2 and 5
    assert any(isinstance(module, Int8Linear) for module in in_int8.model.modules())
    assert in_int8.model_revision == checkpoint_revision(tmp_path / "model") + "-int8-flat"


def test_a_text_that_is_not_unicode_is_refused(extractor):
    with pytest.raises(DocumentError, match="lone surrogate"):
        extractor.extract(["bad \ud800 text"])


def test_an_unknown_device_budget_or_precision_is_refused(tmp_path, wordpiece_tokenizer, extractor):
    save_checkpoint(extractor.model, wordpiece_tokenizer, tmp_path)

    with pytest.raises(ConfigError, match="device must be auto, cpu or cuda, was: tpu"):
        Extractor.from_pretrained(tmp_path, device="tpu")
    with pytest.raises(ConfigError, match="max_batch_tokens must be at least 1, was: 0"):
        Extractor.from_pretrained(tmp_path, device="cpu", max_batch_tokens=0)
    with pytest.raises(ConfigError, match="precision must be auto or int8, was: int4"):
        Extractor.from_pretrained(tmp_path, device="cpu", precision="int4")
    with pytest.raises(ConfigError, match="int8 needs a CPU with AVX512-VNNI or AMX, the model would run on: cuda"):
        place(extractor.model, torch.device("cuda"), "int8")
