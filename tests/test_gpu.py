"""What only a GPU can show; run where there is one."""

import copy
import time
import warnings
from contextlib import contextmanager

import pytest
import torch

from gpner import decoding
from gpner.attention import Pack, packed_attention
from gpner.checkpoint import save_checkpoint
from gpner.decoding import decode_pack
from gpner.extractor import Extractor, place
from gpner.graphs import MOST_DOCUMENTS, SIZES, GraphedForward
from gpner.heads import SpanFactors
from tests.models import tiny_model, tiny_text_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

LENGTHS = (3, 300, 17, 1, 512)


def random_heads(device, dtype):
    generator = torch.Generator().manual_seed(0)
    shape = (3, 1, 4, sum(LENGTHS), 32)
    return torch.randn(shape, generator=generator).to(device, dtype)


@pytest.mark.parametrize("window", [None, 50])
def test_the_kernel_agrees_with_the_blocks_of_the_cpu(window):
    on_gpu, on_cpu = random_heads("cuda", torch.bfloat16), random_heads("cpu", torch.float32)

    found, _ = packed_attention(None, *on_gpu, None, pack=Pack(LENGTHS, torch.device("cuda"), window))
    expected, _ = packed_attention(None, *on_cpu, None, pack=Pack(LENGTHS, torch.device("cpu"), window))

    torch.testing.assert_close(found.float().cpu(), expected, atol=2e-2, rtol=2e-2)


@torch.no_grad()
def test_changing_one_document_changes_no_other_by_a_bit():
    model = tiny_model()
    place(model, torch.device("cuda"))
    ids = torch.randint(5, 120, (sum(LENGTHS),), device="cuda")
    changed = ids.clone()
    changed[3:303] = torch.randint(5, 120, (300,), device="cuda")

    before, after = model(ids, LENGTHS).factors, model(changed, LENGTHS).factors

    assert torch.equal(before.query[:3], after.query[:3])
    assert torch.equal(before.query[303:], after.query[303:])


def test_a_training_step_has_the_gradients_of_the_cpu():
    lengths, contents = [9, 300], torch.tensor([[1, 8], [1, 299]])
    spans = torch.tensor([[0, 0, 1, 3], [1, 1, 5, 5], [1, 0, 250, 290]])
    ids = torch.randint(5, 120, (309,))
    gradients = {}

    for device in ("cpu", "cuda"):
        model = tiny_model().to(device)
        model(ids.to(device), lengths, contents.to(device), spans.to(device)).loss.backward()
        gradients[device] = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}

    for name, gradient in gradients["cpu"].items():
        torch.testing.assert_close(gradients["cuda"][name], gradient, atol=1e-4, rtol=1e-3)


CONTENTS = [(1, 31), (33, 34), (38, 600), (602, 2999)]


def random_factors(groups):
    generator = torch.Generator("cuda").manual_seed(0)
    vectors = torch.randn(2, 3000, groups, 64, generator=generator, device="cuda")
    biases = torch.randn(2, 3000, 4, generator=generator, device="cuda")
    return SpanFactors(vectors[0], vectors[1], biases[0], biases[1])


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("threshold", [8.0, 30.0, 99.0])
@pytest.mark.parametrize("max_entity_tokens", [None, 40])
def test_the_kernel_finds_the_spans_of_torch_to_the_bit(groups, threshold, max_entity_tokens):
    decoding_triton = pytest.importorskip("gpner.decoding_triton", reason="needs Triton")
    factors, thresholds = random_factors(groups), torch.tensor([threshold, 99.0, 99.0, 30.0], device="cuda")
    limits = decoding._limits(CONTENTS, 3000, max_entity_tokens)

    by_kernel = decoding._decode(decoding_triton.find_cells, factors, CONTENTS, limits, thresholds)
    by_torch = decoding._decode(decoding._find_cells, factors, CONTENTS, limits, thresholds)

    assert by_kernel == by_torch
    assert sum(map(len, by_kernel)) > (50 if max_entity_tokens is None else 0)


@contextmanager
def waits_for_the_gpu():
    """Collects a warning for every operation for whose end the host waits, of those that torch can tell."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        seen.clear()  # it warns of itself
        try:
            yield seen
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_searching_a_pack_waits_for_the_gpu_once_and_decoding_it_twice_more():
    decoding_triton = pytest.importorskip("gpner.decoding_triton", reason="needs Triton")
    factors, thresholds = random_factors(4), torch.full((4,), 30.0, device="cuda")
    bounds, limits = decoding._bounds(factors, thresholds[:, None]), decoding._limits(CONTENTS, 3000, None).pin_memory()
    decode_pack(factors, CONTENTS, thresholds)  # compiles

    with waits_for_the_gpu() as of_search:
        (cells,) = decoding_triton.find_cells(bounds, limits)
    with waits_for_the_gpu() as of_decoding:
        spans = decode_pack(factors, CONTENTS, thresholds)

    assert len(of_search) == 1
    assert len(of_decoding) <= 3
    assert len(cells.first) >= sum(map(len, spans)) > 50


def test_seconds_of_forward_and_decoding_are_those_of_the_run(byte_level_tokenizer):
    model = tiny_text_model(byte_level_tokenizer, thresholds=[2.0, 2.0])
    place(model, torch.device("cuda"))
    extractor = Extractor(model, byte_level_tokenizer, model_name="tiny")
    documents = extractor.tokenize(["Ann met the mayor of Lisbon. " * 40, ""])
    extractor.run(documents)  # compiles
    begun = time.perf_counter()

    result = extractor.run(documents)

    assert result.forward_seconds + result.decode_seconds <= time.perf_counter() - begun
    assert result.decode_seconds > 0
    assert result.forward_seconds == pytest.approx(seconds_alone(model, documents), rel=0.8)


@torch.inference_mode()
def seconds_alone(model, documents):
    """The forward of all documents in one pack, from a GPU that does nothing until it is done."""
    windows = [window for document in documents for window in document.windows]
    ids = torch.tensor([token for window in windows for token in window.token_ids], device="cuda")
    torch.cuda.synchronize()
    begun = time.perf_counter()
    model(ids, [len(window.token_ids) for window in windows])
    torch.cuda.synchronize()
    return time.perf_counter() - begun


@torch.inference_mode()
def test_a_graph_gives_the_factors_of_a_forward_whatever_ran_before_it():
    model = tiny_model()
    place(model, torch.device("cuda"))
    graphed = GraphedForward(model)

    for lengths in ([100], [512, 300, 1], [3], [16] * MOST_DOCUMENTS, [512] * 16):
        ids = torch.randint(5, 120, (sum(lengths),))
        expected = vars(model(ids.cuda(), lengths).factors)
        found = vars(graphed(ids, lengths))
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, atol=5e-2, rtol=5e-2)

    assert graphed(torch.zeros(SIZES[-1] + 1, dtype=torch.int64), [SIZES[-1] + 1]) is None


@torch.inference_mode()
def test_to_run_a_graph_the_host_waits_for_nothing():
    model = tiny_model()
    place(model, torch.device("cuda"))
    graphed = GraphedForward(model)
    ids = torch.randint(5, 120, (600,))
    graphed(ids, [300, 300])

    with waits_for_the_gpu() as seen:
        graphed(ids, [300, 300])

    assert not seen


def test_a_model_that_is_loaded_is_recorded_and_finds_the_same(byte_level_tokenizer, tmp_path):
    model = tiny_text_model(byte_level_tokenizer, thresholds=[2.0, 2.0])
    save_checkpoint(model, byte_level_tokenizer, tmp_path)
    place(model, torch.device("cuda"))
    texts = ["Ann met the mayor of Lisbon. " * n for n in (5, 20, 40)]

    recorded = Extractor.from_pretrained(tmp_path, device="cuda")
    plain = Extractor(model, byte_level_tokenizer, model_name="tiny")

    assert recorded._graphed is not None
    for one, other in zip(plain.extract(texts), recorded.extract(texts), strict=True):
        expected, found = ({(e.start, e.end, e.label) for e in of_text.entities} for of_text in (one, other))
        assert len(found & expected) >= 0.9 * max(len(found), len(expected))


def test_the_extractor_finds_on_the_gpu_what_it_finds_on_the_cpu(byte_level_tokenizer):
    model = tiny_text_model(byte_level_tokenizer, thresholds=[2.0, 2.0])
    texts = ["Ann met the mayor of Lisbon. " * n for n in (5, 20, 40)]
    found = {}

    for device in ("cpu", "cuda"):
        placed = copy.deepcopy(model)
        place(placed, torch.device(device))
        extractor = Extractor(placed, byte_level_tokenizer, model_name="tiny")
        found[device] = [{(e.start, e.end, e.label) for e in x.entities} for x in extractor.extract(texts)]

    for on_gpu, on_cpu in zip(found["cuda"], found["cpu"], strict=True):
        # bf16 rounds differently on the two, so spans at the very threshold may differ.
        assert len(on_gpu & on_cpu) >= 0.9 * max(len(on_gpu), len(on_cpu))
