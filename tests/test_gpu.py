"""What only a GPU can show; run where there is one."""

import copy

import pytest
import torch

from gpner.attention import Pack, packed_attention
from gpner.extractor import Extractor, place
from tests.models import tiny_model, tiny_text_model
from worker.budget import TokenBudget
from worker.forwarding import Forwarder
from worker.held import Held
from worker.metrics import Metrics
from worker.protocol import Document
from worker.queue import Entry
from worker.watch import Watch

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


def test_the_extractor_finds_on_the_gpu_what_it_finds_on_the_cpu(wordpiece_tokenizer):
    model = tiny_text_model(wordpiece_tokenizer, thresholds=[2.0, 2.0])
    texts = ["Ann met the mayor of Lisbon. " * n for n in (1, 5, 40)]
    found = {}

    for device in ("cpu", "cuda"):
        placed = copy.deepcopy(model)
        place(placed, torch.device(device))
        extractor = Extractor(placed, wordpiece_tokenizer, model_name="tiny")
        found[device] = [{(e.start, e.end, e.label) for e in x.entities} for x in extractor.extract(texts)]

    for on_gpu, on_cpu in zip(found["cuda"], found["cpu"], strict=True):
        # bf16 rounds differently on the two, so spans at the very threshold may differ.
        assert len(on_gpu & on_cpu) >= 0.9 * max(len(on_gpu), len(on_cpu))


def test_documents_that_do_not_fit_together_are_done_in_smaller_packs(wordpiece_tokenizer):
    model = tiny_text_model(wordpiece_tokenizer, thresholds=[3.0, 3.0])
    place(model, torch.device("cuda"))
    extractor = Extractor(model, wordpiece_tokenizer, model_name="tiny", max_batch_tokens=400_000)
    extractor.warm_up()
    texts = ["Ann met the mayor of Lisbon. " * 50] * 800
    documents = [
        Held(Entry("stream", f"{number}-0", {}, 1), Document(id=str(number), text=text), 0, 0.0, tokenized)
        for number, (text, tokenized) in enumerate(zip(texts, extractor.tokenize(texts), strict=True))
    ]
    torch.cuda.reset_peak_memory_stats()
    in_one_pack = extractor.extract(texts)
    needed = torch.cuda.max_memory_reserved()
    budget, metrics = TokenBudget(400_000), Metrics()
    watch = Watch(60, 400_000, holds_documents=lambda: False, waits_for_redis=lambda: False)
    forwarder = Forwarder(extractor, budget, watch, metrics)

    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(needed / 3 / torch.cuda.get_device_properties(0).total_memory)
    try:
        forwarded = forwarder.run(documents)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)

    assert metrics.registry.get_sample_value("gpner_out_of_memory_total") > 0
    assert budget.tokens < 400_000
    assert not forwarded.deferred
    found = {end.entry.entry_id: len(end.extraction.entities) for end in forwarded.finished}
    assert found == {f"{number}-0": len(extraction.entities) for number, extraction in enumerate(in_one_pack)}
