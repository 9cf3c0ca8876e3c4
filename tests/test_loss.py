"""The factorised loss against the dense form in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpner.heads import SpanFactors
from gpner.loss import KEPT_LENGTH, span_loss
from tests.models import tiny_model


def random_factors(length: int, n_labels: int, shared: bool, scale: float, seed: int) -> SpanFactors:
    generator = torch.Generator().manual_seed(seed)
    groups = 1 if shared else n_labels
    query, key = (torch.randn(length, groups, 4, generator=generator) * scale**0.5 for _ in range(2))
    biases = [torch.randn(length, n_labels, generator=generator) * scale for _ in range(2)]
    return SpanFactors(*(tensor.requires_grad_() for tensor in (query, key, *biases)))


def dense_loss(
    factors: SpanFactors, spans: list[tuple[int, int, int]], band: int | None, segment_tokens: int | None = None
) -> torch.Tensor:
    """log(1 + Σ e^logit of all other spans) + log(1 + Σ e^-logit of the entities), all cells of a segment at once."""
    query, key = factors.query.double(), factors.key.double()
    logits = torch.einsum("igd,jgd->gij", query, key)
    logits = logits + factors.start_bias.double().T[:, :, None] + factors.end_bias.double().T[:, None, :]
    n_labels, length, _ = logits.shape
    distance = torch.arange(length)[None] - torch.arange(length)[:, None]
    scored = (distance >= 0) & (distance < (band or length))
    entity = torch.zeros(n_labels, length, length, dtype=torch.bool)
    for label, first, last in spans:
        entity[label, first, last] = bool(scored[first, last])
    zero = torch.zeros(n_labels, 1, dtype=torch.double)
    count = 1 if segment_tokens is None else max(1, round(length / segment_tokens))
    losses = []
    for segment in range(count):
        rows = torch.arange(length) * count // length == segment
        gold, other = entity[:, rows], scored[rows] & ~entity[:, rows]
        negative = logits[:, rows].masked_fill(~other, float("-inf")).flatten(1)
        positive = (-logits[:, rows]).masked_fill(~gold, float("-inf")).flatten(1)
        losses.append(torch.cat([zero, negative], 1).logsumexp(1) + torch.cat([zero, positive], 1).logsumexp(1))
    return torch.stack(losses)


@torch.no_grad()
def largest_logit(factors: SpanFactors) -> float:
    logits = torch.einsum("igd,jgd->gij", factors.query, factors.key)
    return float((logits + factors.start_bias.T[:, :, None] + factors.end_bias.T[:, None, :]).abs().max())


@settings(max_examples=15, deadline=None)
@given(
    length=st.integers(1, 700),
    n_labels=st.integers(1, 20),
    shared=st.booleans(),
    n_spans=st.integers(0, 30),
    scale=st.sampled_from([0.1, 1.0, 6.0, 25.0]),
    band=st.sampled_from([None, None, 1, 16, 300]),
    segment=st.sampled_from([None, None, 1, 50, 128]),
    seed=st.integers(0, 2**31),
)
def test_loss_and_gradients_equal_the_dense_form_in_float64(
    length, n_labels, shared, n_spans, scale, band, segment, seed
):
    factors = random_factors(length, n_labels, shared, scale, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    spans = []
    for _ in range(n_spans):
        label, first = (int(torch.randint(n, (), generator=generator)) for n in (n_labels, length))
        longest = min(length - first, 40)
        spans.append((label, first, first + int(torch.randint(longest, (), generator=generator))))
    tensors = (factors.query, factors.key, factors.start_bias, factors.end_bias)

    gold = torch.tensor(spans, dtype=torch.long).reshape(-1, 3)
    found = span_loss(factors, gold, max_entity_tokens=band, segment_tokens=segment)
    gradients = torch.autograd.grad(found.sum(), tensors, allow_unused=True)

    expected = dense_loss(factors, spans, band, segment)
    # The error of an exponential relative to its size is the error of its exponent, which grows with the exponent.
    tolerance = 1e-5 * max(1.0, largest_logit(factors) / 80)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(gradients, torch.autograd.grad(expected.sum(), tensors), strict=True):
        assert (mine - theirs).norm() <= tolerance * theirs.norm() + 1e-7


def test_a_positive_at_25_among_negatives_at_minus_8_cancels_nothing():
    factors = SpanFactors(
        query=torch.zeros(101, 1, 2),
        key=torch.zeros(101, 1, 2),
        start_bias=torch.full((101, 1), -8.0),
        end_bias=torch.zeros(101, 1),
    )
    factors.query[3, 0, 0], factors.key[5, 0, 0] = 33.0, 1.0

    loss = span_loss(factors, torch.tensor([[0, 3, 5]]), max_entity_tokens=4)

    negatives = 98 * 4 + 3 + 2 + 1 - 1
    expected = torch.log1p(negatives * torch.exp(torch.tensor(-8.0, dtype=torch.double)))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert loss.item() == pytest.approx(0.125, abs=1e-4)


@pytest.mark.parametrize(
    "head",
    [
        {"head": "efficient_global_pointer", "bias_from": "projection"},
        {"head": "efficient_global_pointer", "bias_from": "hidden"},
        {"head": "global_pointer"},
    ],
)
def test_loss_and_gradients_of_a_pack_equal_the_dense_form_of_each_document_for_every_head(head):
    model = tiny_model(**head, labels=["A", "B", "C"])
    lengths = [30, 3, 300]
    contents = torch.tensor([[1, length - 1] for length in lengths])
    spans = torch.tensor([[0, 0, 4, 6], [0, 2, 4, 6], [0, 1, 0, 27], [2, 1, 297, 297], [2, 0, 3, 290]])
    ids = torch.randint(5, 120, (sum(lengths),), generator=torch.Generator().manual_seed(0))
    parameters = list(model.head.parameters())

    found = model(ids, lengths, contents, spans, segment_tokens=100)
    gradients = torch.autograd.grad(found.loss, parameters, retain_graph=True)

    starts = [0, 30, 33]
    losses = []
    for document, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        content = found.factors.narrow(start + 1, start + length - 1)
        losses.append(dense_loss(content, spans[spans[:, 0] == document, 1:].tolist(), None, 100))
    expected = torch.cat(losses).mean()
    torch.testing.assert_close(found.loss.double(), expected, rtol=1e-5, atol=0.0)
    for mine, theirs in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
        assert (mine - theirs).norm() <= 1e-5 * theirs.norm()


def test_best_score_and_best_end_at_different_tokens_do_not_underflow():
    factors = random_factors(length=40, n_labels=2, shared=True, scale=1.0, seed=0)
    with torch.no_grad():
        factors.query.zero_()
        factors.key.zero_()
        factors.query[0, 0, 0] = 1.0
        factors.key[10, 0, 0], factors.end_bias[10] = 80.0, -80.0
        factors.key[20, 0, 0], factors.end_bias[20] = -80.0, 80.0

    loss = span_loss(factors, torch.empty(0, 3, dtype=torch.long))

    torch.testing.assert_close(loss.double(), dense_loss(factors, [], None), rtol=1e-6, atol=0.0)


def test_blocks_that_are_computed_again_and_blocks_that_are_kept_give_one_loss():
    length = KEPT_LENGTH + 1
    factors = random_factors(length, n_labels=2, shared=True, scale=1.0, seed=0)
    spans = [(0, 3, 5), (1, KEPT_LENGTH - 1, KEPT_LENGTH)]
    tensors = (factors.query, factors.key, factors.start_bias, factors.end_bias)

    found = span_loss(factors, torch.tensor(spans))

    expected = dense_loss(factors, spans, None)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0.0)
    expected_gradients = torch.autograd.grad(expected.sum(), tensors)
    for mine, theirs in zip(torch.autograd.grad(found.sum(), tensors), expected_gradients, strict=True):
        assert (mine - theirs).norm() <= 1e-5 * theirs.norm()


def test_the_segments_of_a_long_text_have_the_losses_of_short_texts():
    factors = random_factors(length=512, n_labels=3, shared=True, scale=1.0, seed=0)
    spans = torch.tensor([[0, 3, 5], [1, 127, 127], [2, 128, 129], [0, 400, 410]])

    found = span_loss(factors, spans, max_entity_tokens=1, segment_tokens=128)

    assert found.shape == (4, 3)
    for segment, start in enumerate(range(0, 512, 128)):
        here = spans[(spans[:, 1] >= start) & (spans[:, 1] < start + 128)] - torch.tensor([0, start, start])
        alone = span_loss(factors.narrow(start, start + 128), here, max_entity_tokens=1)
        torch.testing.assert_close(found[segment], alone[0])


def test_a_document_without_entities_and_one_of_a_single_token_have_a_finite_loss():
    factors = random_factors(length=1, n_labels=3, shared=True, scale=1.0, seed=0)

    empty = span_loss(factors, torch.empty(0, 3, dtype=torch.long))
    full = span_loss(factors, torch.tensor([[0, 0, 0], [1, 0, 0], [2, 0, 0]]))

    assert empty.isfinite().all()
    assert full.isfinite().all()
