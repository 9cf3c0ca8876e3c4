"""The factorised loss against the dense form in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gpner.heads import SpanFactors
from gpner.loss import span_loss


def random_factors(length: int, n_labels: int, shared: bool, scale: float, seed: int) -> SpanFactors:
    generator = torch.Generator().manual_seed(seed)
    groups = 1 if shared else n_labels
    query, key = (torch.randn(length, groups, 4, generator=generator) * scale**0.5 for _ in range(2))
    biases = [torch.randn(length, n_labels, generator=generator) * scale for _ in range(2)]
    return SpanFactors(*(tensor.requires_grad_() for tensor in (query, key, *biases)))


def dense_loss(factors: SpanFactors, spans: list[tuple[int, int, int]], band: int | None) -> torch.Tensor:
    """log(1 + Σ e^logit of all other spans) + log(1 + Σ e^-logit of the entities), over all cells at once."""
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
    negative = logits.masked_fill(entity | ~scored, float("-inf")).flatten(1)
    positive = (-logits).masked_fill(~(entity & scored), float("-inf")).flatten(1)
    return torch.cat([zero, negative], 1).logsumexp(1) + torch.cat([zero, positive], 1).logsumexp(1)


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(1, 700),
    n_labels=st.integers(1, 20),
    shared=st.booleans(),
    n_spans=st.integers(0, 30),
    scale=st.sampled_from([0.1, 1.0, 5.0, 25.0]),
    band=st.sampled_from([None, None, 1, 16, 300]),
    seed=st.integers(0, 2**31),
)
def test_loss_and_gradients_equal_the_dense_form_in_float64(length, n_labels, shared, n_spans, scale, band, seed):
    if not shared:
        length, n_labels = min(length, 200), min(n_labels, 6)
    factors = random_factors(length, n_labels, shared, scale, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    spans = []
    for _ in range(n_spans):
        label, first = (int(torch.randint(n, (), generator=generator)) for n in (n_labels, length))
        longest = min(length - first, 40)
        spans.append((label, first, first + int(torch.randint(longest, (), generator=generator))))
    tensors = (factors.query, factors.key, factors.start_bias, factors.end_bias)

    found = span_loss(factors, torch.tensor(spans, dtype=torch.long).reshape(-1, 3), max_entity_tokens=band)
    gradients = torch.autograd.grad(found.sum(), tensors, allow_unused=True)

    expected = dense_loss(factors, spans, band)
    # The error of an exponential relative to its size is the error of its exponent, which grows with the exponent.
    largest = max(float(tensor.detach().abs().max()) for tensor in tensors) ** 2
    tolerance = 1e-5 + 4 * torch.finfo(torch.float32).eps * largest
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(gradients, torch.autograd.grad(expected.sum(), tensors), strict=True):
        assert (mine - theirs).norm() <= tolerance * theirs.norm() + 1e-7


def test_a_confident_positive_cancels_nothing():
    factors = SpanFactors(
        query=torch.zeros(20, 1, 2),
        key=torch.zeros(20, 1, 2),
        start_bias=torch.full((20, 1), -8.0),
        end_bias=torch.zeros(20, 1),
    )
    factors.query[3, 0, 0], factors.key[7, 0, 0] = 33.0, 1.0
    negatives = 20 * 21 // 2 - 1

    loss = span_loss(factors, torch.tensor([[0, 3, 7]]))

    expected = torch.log1p(negatives * torch.exp(torch.tensor(-8.0, dtype=torch.double)))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


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


def test_a_document_without_entities_and_one_of_a_single_token_have_a_finite_loss():
    factors = random_factors(length=1, n_labels=3, shared=True, scale=1.0, seed=0)

    empty = span_loss(factors, torch.empty(0, 3, dtype=torch.long))
    full = span_loss(factors, torch.tensor([[0, 0, 0], [1, 0, 0], [2, 0, 0]]))

    assert empty.isfinite().all()
    assert full.isfinite().all()
