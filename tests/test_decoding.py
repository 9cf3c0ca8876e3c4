from itertools import pairwise

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gpner.decoding import COLUMNS, CPU_ROWS, Span, decode_pack, decode_spans, keep_flat
from gpner.entities import Entity
from gpner.errors import DocumentError, ShapeError
from gpner.heads import SpanFactors

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def dense_spans(factors: SpanFactors, thresholds: Tensor, max_entity_tokens: int | None = None) -> list[Span]:
    """The oracle: every logit of every label, then a comparison."""
    spans = []
    for label, threshold in enumerate(thresholds):
        group = label if factors.query.shape[1] > 1 else 0
        scores = factors.query[:, group] @ factors.key[:, group].T
        logits = scores + factors.start_bias[:, label, None] + factors.end_bias[None, :, label]
        for first, last in (logits > threshold).nonzero().tolist():
            if first <= last and (max_entity_tokens is None or last - first < max_entity_tokens):
                spans.append(Span(label, first, last, logits[first, last].item()))
    return sorted(spans, key=lambda span: (span.first_token, -span.last_token, span.label))


def random_factors(length: int, n_labels: int, groups: int, *, seed: int = 0, head_size: int = 16) -> SpanFactors:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(2, length, groups, head_size, generator=generator)
    biases = torch.randn(2, length, n_labels, generator=generator)
    return SpanFactors(vectors[0], vectors[1], biases[0], biases[1])


def exact_factors(length: int, n_labels: int, groups: int, seed: int) -> SpanFactors:
    """Factors in eighths, so that every sum is exact in fp32 and no order of summation matters."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randint(-8, 9, (2, length, groups, 6), generator=generator) / 4
    biases = torch.randint(-24, 25, (2, length, n_labels), generator=generator) / 8
    if groups > 1:
        biases.zero_()
    return SpanFactors(vectors[0], vectors[1], biases[0], biases[1])


def quiet_thresholds(factors: SpanFactors) -> Tensor:
    """A threshold per label in the middle of the widest gap between its 20 to 60 highest logits."""
    thresholds = []
    for label in range(factors.start_bias.shape[1]):
        group = label if factors.query.shape[1] > 1 else 0
        logits = (factors.query[:, group] @ factors.key[:, group].T).triu()
        logits = logits + factors.start_bias[:, label, None] + factors.end_bias[None, :, label]
        highest = logits.flatten().topk(60).values[20:]
        widest = (highest[:-1] - highest[1:]).argmax()
        thresholds.append((highest[widest] + highest[widest + 1]) / 2)
    return torch.stack(thresholds)


def cells_of(spans: list[Span]) -> list[tuple[int, int, int]]:
    return [span[:3] for span in spans]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    length=st.integers(1, 90) | st.integers(CPU_ROWS - 2, CPU_ROWS + 60) | st.integers(1, 1500),
    n_labels=st.integers(1, 20),
    shared=st.booleans(),
    threshold=st.integers(9, 18),
    max_entity_tokens=st.none() | st.integers(1, 100),
)
@example(seed=1, length=1500, n_labels=20, shared=True, threshold=16, max_entity_tokens=None)
@example(seed=2, length=1201, n_labels=3, shared=False, threshold=10, max_entity_tokens=None)
@example(seed=3, length=1499, n_labels=6, shared=True, threshold=10, max_entity_tokens=64)
@example(seed=4, length=80, n_labels=2, shared=True, threshold=-99, max_entity_tokens=None)
def test_blockwise_decoding_finds_exactly_the_spans_of_the_dense_form(
    seed, length, n_labels, shared, threshold, max_entity_tokens
):
    factors = exact_factors(length, n_labels, 1 if shared else n_labels, seed)
    thresholds = threshold + torch.arange(n_labels) % 5 / 8

    spans = decode_spans(factors, thresholds, max_entity_tokens=max_entity_tokens)

    assert spans == dense_spans(factors, thresholds, max_entity_tokens)


@pytest.mark.parametrize("groups", [1, 5])
@pytest.mark.parametrize("length", [61, 700])
def test_decoding_real_numbers_agrees_with_the_dense_form(length, groups):
    factors = random_factors(length, 5, groups, seed=length)
    thresholds = quiet_thresholds(factors)

    spans, expected = decode_spans(factors, thresholds), dense_spans(factors, thresholds)

    assert cells_of(spans) == cells_of(expected)
    torch.testing.assert_close(torch.tensor(spans), torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_columns_past_the_first_tile_are_searched():
    length = COLUMNS + 100
    factors = exact_factors(length, 1, 1, seed=7)
    factors.key[:, 0, 0] = 0.0
    factors.query[5, 0, 0] = factors.key[length - 1, 0, 0] = 100.0  # one entity from end to end
    thresholds = quiet_thresholds(factors)

    spans = decode_spans(factors, thresholds)

    assert spans == dense_spans(factors, thresholds)
    assert (5, length - 1) in {(span.first_token, span.last_token) for span in spans}


def test_a_logit_equal_to_the_threshold_is_no_entity():
    factors = SpanFactors(torch.ones(1, 1, 2), torch.ones(1, 1, 2), torch.full((1, 1), 0.5), torch.zeros(1, 1))

    assert decode_spans(factors, torch.tensor([2.5])) == []
    assert decode_spans(factors, torch.tensor([2.4])) == [Span(0, 0, 0, 2.5)]


def test_a_label_with_an_infinite_threshold_is_never_found():
    factors = exact_factors(40, 3, 1, seed=5)
    thresholds = torch.tensor([2.0, float("inf"), 2.0])

    spans = decode_spans(factors, thresholds)

    assert spans == dense_spans(factors, thresholds)
    assert {span.label for span in spans} == {0, 2}


@pytest.mark.parametrize("groups", [1, 4])
def test_a_pack_decodes_to_the_bit_like_its_documents_one_by_one(groups):
    factors = random_factors(900, 4, groups, seed=11)
    contents = [(1, 31), (33, 34), (36, 36), (38, 600), (602, 640), (640, 899)]
    thresholds = torch.full((4,), 9.0)

    together = decode_pack(factors, contents, thresholds)

    alone = [decode_spans(factors.narrow(*content), thresholds) for content in contents]
    assert together == alone
    assert sum(map(len, together)) > 50


def test_no_span_touches_a_token_outside_the_contents():
    factors = exact_factors(60, 2, 1, seed=3)
    factors.start_bias[[0, 29, 30, 59]] = factors.end_bias[[0, 29, 30, 59]] = 1000.0

    first, second = decode_pack(factors, [(1, 29), (31, 59)], torch.full((2,), 5.0))

    assert first == dense_spans(factors.narrow(1, 29), torch.full((2,), 5.0))
    assert second == dense_spans(factors.narrow(31, 59), torch.full((2,), 5.0))


def test_a_pack_without_tokens_or_without_documents_has_no_spans():
    assert decode_spans(exact_factors(0, 2, 1, seed=0), torch.zeros(2)) == []
    assert decode_pack(exact_factors(5, 2, 1, seed=0), [], torch.zeros(2)) == []


@pytest.mark.parametrize("product_in_bf16", [False, True])
def test_a_span_that_passes_by_one_bit_is_found_however_coarse_the_products_of_the_bound(product_in_bf16):
    factors = random_factors(300, 1, 1, seed=2, head_size=64)
    some = decode_spans(factors, torch.tensor([15.0]))[::20]

    for span in some:
        just_below = torch.tensor([span.logit]).nextafter(torch.tensor(0.0))
        with torch.autocast("cpu", torch.bfloat16, enabled=product_in_bf16):
            assert span in decode_spans(factors, just_below)
    assert len(some) > 20


class LargestTensor(TorchDispatchMode):
    """Records the most elements that any tensor had."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("groups", [1, 10])
def test_no_tensor_grows_with_the_square_of_the_length(groups):
    length = 3000
    factors = random_factors(length, 10, groups, head_size=8)
    thresholds = torch.full((10,), 16.0)

    with LargestTensor() as largest:
        spans = decode_spans(factors, thresholds)

    assert spans
    assert largest.elements <= CPU_ROWS * length


def on_gpu(factors: SpanFactors) -> SpanFactors:
    return SpanFactors(*(tensor.cuda() for tensor in vars(factors).values()))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("groups", [1, 5])
def test_a_gpu_finds_the_spans_of_the_cpu(groups):
    factors = exact_factors(5000, 5, groups, seed=4)
    contents = [(0, 10), (12, 700), (702, 4999)]
    thresholds = torch.full((5,), 16.0)

    spans = decode_pack(on_gpu(factors), contents, thresholds.cuda())

    assert spans == decode_pack(factors, contents, thresholds)


@pytest.mark.gpu
@needs_gpu
def test_a_pack_on_a_gpu_decodes_to_the_bit_like_its_documents_one_by_one():
    factors = on_gpu(random_factors(3000, 4, 1, seed=11, head_size=64))
    contents = [(1, 31), (33, 34), (38, 600), (602, 2999)]
    thresholds = torch.full((4,), 30.0).cuda()

    together = decode_pack(factors, contents, thresholds)

    assert together == [decode_spans(factors.narrow(*content), thresholds) for content in contents]
    assert sum(map(len, together)) > 50


@pytest.mark.parametrize(
    ("contents", "n_thresholds", "message"),
    [
        ([(0, 5)], 2, "query and key must agree and hold 1 or 2 vectors per token"),
        ([(0, 7)], 3, "contents must ascend within the 6 tokens of the pack, were:"),
        ([(3, 5), (0, 2)], 3, "contents must ascend"),
        ([(0, 4), (3, 5)], 3, "contents must ascend"),
    ],
)
def test_disagreeing_shapes_are_refused(contents, n_thresholds, message):
    factors = exact_factors(6, 3, 3, seed=0)

    with pytest.raises(ShapeError, match=message):
        decode_pack(factors, contents, torch.zeros(n_thresholds))


def test_biases_of_other_labels_than_the_thresholds_are_refused():
    factors = exact_factors(6, 3, 1, seed=0)

    with pytest.raises(ShapeError, match=r"start_bias and end_bias must be of shape \(6, 4\)"):
        decode_spans(factors, torch.zeros(4))


def entity(start: int, end: int, score: float, label: str = "PER") -> Entity:
    return Entity(start, end, label, "x" * (end - start), score)


ENTITIES = st.builds(
    lambda start, length, score, label: entity(start, start + length, score / 4, label),
    st.integers(0, 40),
    st.integers(1, 15),
    st.integers(1, 4),
    st.sampled_from(["LOC", "PER"]),
)


@given(st.lists(ENTITIES, max_size=30))
def test_flat_entities_never_overlap_and_each_dropped_one_gave_way_to_a_better_one(entities):
    def rank(item: Entity) -> tuple[float, int, int]:
        return -item.score, item.start - item.end, item.start

    kept = keep_flat(entities)

    assert all(left.end <= right.start for left, right in pairwise(kept))
    for dropped in set(entities) - set(kept):
        overlapping = [item for item in kept if item.start < dropped.end and dropped.start < item.end]
        assert min(map(rank, overlapping)) <= rank(dropped)


@given(st.lists(ENTITIES, max_size=30), st.randoms())
def test_flat_entities_do_not_depend_on_the_order_in_which_they_come(entities, random):
    shuffled = random.sample(entities, len(entities))

    assert keep_flat(shuffled) == keep_flat(entities)


def test_the_highest_score_wins_then_the_longer_then_the_earlier():
    assert keep_flat([entity(0, 9, 0.5), entity(2, 4, 0.9)]) == (entity(2, 4, 0.9),)
    assert keep_flat([entity(0, 2, 0.9), entity(0, 4, 0.9)]) == (entity(0, 4, 0.9),)
    assert keep_flat([entity(1, 3, 0.9), entity(0, 2, 0.9)]) == (entity(0, 2, 0.9),)


def test_touching_entities_both_stay():
    assert keep_flat([entity(3, 5, 0.6), entity(0, 3, 0.9)]) == (entity(0, 3, 0.9), entity(3, 5, 0.6))


def test_a_model_that_fires_everywhere_is_refused_before_it_fills_the_memory():
    n_tokens, n_labels = 1500, 4
    flat = torch.ones(n_tokens, n_labels)
    factors = SpanFactors(torch.zeros(n_tokens, 1, 2), torch.zeros(n_tokens, 1, 2), flat, flat)

    with pytest.raises(DocumentError, match="at most 2,000,000 spans above the thresholds"):
        decode_spans(factors, torch.zeros(n_labels))
