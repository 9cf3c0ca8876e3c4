"""The heads against the formulas, written out cell by cell."""

import math

import pytest
import torch

from gpner.config import GlobalPointerConfig
from gpner.heads import EfficientGlobalPointer, GlobalPointer, SpanFactors
from tests.models import tiny_bert_config

LABELS = ["A", "B", "C"]
ALL_HEADS = [
    ("efficient_global_pointer", "projection"),
    ("efficient_global_pointer", "hidden"),
    ("global_pointer", "projection"),
]


def make_head(kind: str, bias_from: str, hidden: int, labels: list[str]) -> torch.nn.Module:
    config = GlobalPointerConfig(
        encoder_config=tiny_bert_config(), labels=labels, head=kind, bias_from=bias_from, head_size=64
    )
    return (EfficientGlobalPointer if kind == "efficient_global_pointer" else GlobalPointer)(hidden, config)


def rotate_slowly(vector: list[float], position: int) -> list[float]:
    rotated = list(vector)
    for pair in range(0, len(vector), 2):
        angle = position * 10000 ** (-pair / len(vector))
        x, y = vector[pair], vector[pair + 1]
        rotated[pair] = x * math.cos(angle) - y * math.sin(angle)
        rotated[pair + 1] = y * math.cos(angle) + x * math.sin(angle)
    return rotated


def dot(left: list[float], right: list[float]) -> float:
    return sum(x * y for x, y in zip(left, right, strict=True))


def efficient_slowly(head: EfficientGlobalPointer, hidden: torch.Tensor, position: list[int]) -> torch.Tensor:
    """Every cell from the formulas: s(i, j) = RoPE(q_i)·RoPE(k_j)/√d + b_start + b_end, b of the unrotated token."""
    x = (hidden @ head.projection.weight.double().T + head.projection.bias.double()).tolist()
    source = hidden.tolist() if head.bias_from == "hidden" else x
    weight, offset = head.label_projection.weight.double().tolist(), head.label_projection.bias.double().tolist()
    b = [[(dot(row, w) + o) / 2 for w, o in zip(weight, offset, strict=True)] for row in source]
    length, n_labels = len(x), len(offset) // 2
    logits = torch.full((n_labels, length, length), float("-inf"), dtype=torch.double)
    for label in range(n_labels):
        for i in range(length):
            for j in range(i, length):
                query, key = rotate_slowly(x[i][::2], position[i]), rotate_slowly(x[j][1::2], position[j])
                score = dot(query, key) / math.sqrt(len(query))
                logits[label, i, j] = score + b[i][2 * label + 1] + b[j][2 * label]
    return logits


def plain_slowly(head: GlobalPointer, hidden: torch.Tensor, position: list[int]) -> torch.Tensor:
    x = (hidden @ head.projection.weight.double().T + head.projection.bias.double()).tolist()
    length, n_labels = len(x), head.n_labels
    size = len(x[0]) // n_labels // 2
    logits = torch.full((n_labels, length, length), float("-inf"), dtype=torch.double)
    for label in range(n_labels):
        first = label * 2 * size
        for i in range(length):
            for j in range(i, length):
                query = rotate_slowly(x[i][first : first + size], position[i])
                key = rotate_slowly(x[j][first + size : first + 2 * size], position[j])
                logits[label, i, j] = dot(query, key) / math.sqrt(size)
    return logits


def dense_logits(factors: SpanFactors) -> torch.Tensor:
    scores = torch.einsum("igd,jgd->gij", factors.query, factors.key)
    logits = scores + factors.start_bias.T[:, :, None] + factors.end_bias.T[:, None, :]
    return logits.masked_fill(torch.ones_like(logits, dtype=torch.bool).tril(-1), float("-inf"))


@pytest.mark.parametrize(("kind", "bias_from"), ALL_HEADS)
@pytest.mark.parametrize("lengths", [[1], [7], [5, 1, 9]])
@torch.no_grad()
def test_a_head_equals_the_formulas_in_every_cell_of_every_document(kind, bias_from, lengths):
    torch.manual_seed(len(lengths))
    head = make_head(kind, bias_from, hidden=24, labels=LABELS)
    hidden = torch.randn(sum(lengths), 24)
    positions = torch.cat([torch.arange(length) for length in lengths])
    slowly = efficient_slowly if kind == "efficient_global_pointer" else plain_slowly

    factors = head(hidden, positions)

    start = 0
    for length in lengths:
        found = dense_logits(factors.narrow(start, start + length))
        expected = slowly(head, hidden[start : start + length].double(), list(range(length)))
        torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=1e-5)
        start += length


@torch.no_grad()
def test_scores_depend_on_the_distance_of_two_tokens_and_not_on_their_place():
    torch.manual_seed(0)
    head = make_head("efficient_global_pointer", "projection", hidden=24, labels=LABELS)
    hidden = torch.randn(6, 24)

    near, far = (dense_logits(head(hidden, torch.arange(6) + offset)) for offset in (0, 3000))

    torch.testing.assert_close(near, far, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "bias_from", "n_labels", "parameters"),
    [
        ("global_pointer", "projection", 10, 984_320),
        ("efficient_global_pointer", "projection", 10, 101_012),
        ("efficient_global_pointer", "hidden", 10, 113_812),
        ("global_pointer", "projection", 3, 295_296),
        ("efficient_global_pointer", "projection", 3, 99_206),
        ("efficient_global_pointer", "hidden", 3, 103_046),
    ],
)
def test_a_head_has_the_published_number_of_parameters(kind, bias_from, n_labels, parameters):
    head = make_head(kind, bias_from, hidden=768, labels=[f"L{number}" for number in range(n_labels)])

    assert sum(parameter.numel() for parameter in head.parameters()) == parameters
