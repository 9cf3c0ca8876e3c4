"""From span factors to spans, without ever holding a score per label and pair of tokens.

Blocks of rows of the upper triangle get an upper bound of their best label's logit from one matrix product: the end
bias of the most favourable label rides along as one more channel. Only rows whose bound passes are looked at cell by
cell, and only cells whose bound passes get a logit per label. A logit is then computed from the span's own two vectors,
never taken from the matrix product, so that it depends neither on the block nor on the other documents of a pack.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from gpner.entities import Entity
from gpner.errors import DocumentError, ShapeError
from gpner.heads import SpanFactors

# Rows of a block. On a GPU a block costs launches, not arithmetic, so that larger ones are faster.
CPU_ROWS = 256
GPU_ROWS = 2048
# Columns of a block; with the rows, it bounds the memory whatever the length of the document.
COLUMNS = 4096
# Cells that are expanded to all labels at once.
CELLS = 65_536
# More spans than this in one pack are no answer but a model that fires everywhere, and would fill the memory.
MOST_SPANS = 2_000_000
# Widening of the bound, relative to the norms of the vectors. It covers products in bf16, the coarsest that torch can
# be set to (autocast, TF32): no such setting loses a span.
MARGIN = 2**-7


class Span(NamedTuple):
    """A span of tokens with a label.

    `label` is the index of the label, `first_token` and `last_token` are both inclusive, `logit` is the score in fp32.
    """

    label: int
    first_token: int
    last_token: int
    logit: float


class _Group(NamedTuple):
    """Labels that share their vectors, in fp32, with what bounds their logits.

    `bound_query` (length, head_size + 1) times `bound_key` of the same shape is a cell's score plus its greatest end
    bias; only where that exceeds `floor` (length,) of the row can any label exceed its threshold.
    """

    first_label: int
    query: Tensor
    key: Tensor
    start_bias: Tensor
    end_bias: Tensor
    thresholds: Tensor
    bound_query: Tensor
    bound_key: Tensor
    floor: Tensor


def decode_spans(factors: SpanFactors, thresholds: Tensor, *, max_entity_tokens: int | None = None) -> list[Span]:
    """Find all spans of one document whose logit lies strictly above their label's threshold.

    Args:
        factors: The document's tokens, without special tokens.
        thresholds: In logits. Shape: (n_labels,).
        max_entity_tokens: Longest span to find, in tokens; None for no limit.

    Returns:
        The spans by first token, then longest first, then label; spans may overlap.

    Raises:
        ShapeError: If the factors and the thresholds disagree.
    """
    whole = [(0, factors.query.shape[0])]
    return decode_pack(factors, whole, thresholds, max_entity_tokens=max_entity_tokens)[0]


@torch.inference_mode()
def decode_pack(
    factors: SpanFactors,
    contents: Sequence[tuple[int, int]],
    thresholds: Tensor,
    *,
    max_entity_tokens: int | None = None,
) -> list[list[Span]]:
    """Find the spans of all documents of a pack at once; each document's are those of `decode_spans` to the bit.

    Args:
        factors: The tokens of the pack, special tokens included.
        contents: First token of each document's content and the token after its last, counted in the pack, in
            ascending order. No span covers a token outside.
        thresholds: In logits. Shape: (n_labels,).
        max_entity_tokens: Longest span to find, in tokens; None for no limit.

    Returns:
        The spans of each document, their tokens counted from the start of its content, in the order of `decode_spans`.

    Raises:
        ShapeError: If the factors, the contents and the thresholds disagree.
        DocumentError: If more than two million spans lie above the thresholds.
    """
    _check(factors, contents, thresholds)
    limits = _limits(contents, factors.query.shape[0], max_entity_tokens)
    blocks = list(_blocks(limits, GPU_ROWS if factors.query.is_cuda else CPU_ROWS))
    if not blocks:
        return [[] for _ in contents]
    limits = limits.to(factors.query.device)
    found: list[Tensor] = []
    for group in _groups(factors, thresholds):
        for rows, columns in blocks:
            first, last = _candidates(group, limits, rows, columns)
            if len(first):
                pieces = zip(torch.split(first, CELLS), torch.split(last, CELLS), strict=True)
                found += [_score(group, *cells) for cells in pieces]
                _refuse_a_flood(found)
    return _to_spans(found, contents)


def _refuse_a_flood(found: Sequence[Tensor]) -> None:
    if sum(spans.shape[1] for spans in found) > MOST_SPANS:
        raise DocumentError(
            f"a batch must have at most {MOST_SPANS:,} spans above the thresholds, has more; "
            "train the model further, raise its thresholds or set max_entity_tokens"
        )


def keep_flat(entities: Sequence[Entity]) -> tuple[Entity, ...]:
    """Drop entities until none overlaps another: the highest score stays, of equal ones the longer, then the earlier.

    Returns:
        The entities that stay, by start.
    """
    starts: list[int] = []
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda e: (-e.score, e.start - e.end, e.start, e.label)):
        place = bisect_left(starts, entity.start)
        free_before = place == 0 or kept[place - 1].end <= entity.start
        free_after = place == len(kept) or entity.end <= kept[place].start
        if free_before and free_after:
            starts.insert(place, entity.start)
            kept.insert(place, entity)
    return tuple(kept)


def _check(factors: SpanFactors, contents: Sequence[tuple[int, int]], thresholds: Tensor) -> None:
    length, groups = factors.query.shape[:2]
    biases = (length, len(thresholds))
    if factors.key.shape != factors.query.shape or groups not in (1, len(thresholds)):
        raise ShapeError(
            f"query and key must agree and hold 1 or {len(thresholds)} vectors per token (one per threshold), "
            f"were: {tuple(factors.query.shape)} and {tuple(factors.key.shape)}"
        )
    if factors.start_bias.shape != biases or factors.end_bias.shape != biases:
        raise ShapeError(
            f"start_bias and end_bias must be of shape {biases} (tokens, thresholds), "
            f"were: {tuple(factors.start_bias.shape)} and {tuple(factors.end_bias.shape)}"
        )
    borders = [0, *(border for content in contents for border in content), length]
    if any(left > right for left, right in pairwise(borders)):
        raise ShapeError(f"contents must ascend within the {length} tokens of the pack, were: {list(contents)}")


def _limits(contents: Sequence[tuple[int, int]], length: int, max_entity_tokens: int | None) -> Tensor:
    """Say for each token where spans that start at it must end: before this token. Shape: (length,), on the host."""
    limits: list[int] = []
    for first, stop in contents:
        limits += [0] * (first - len(limits))
        limits += [stop] * (stop - first)
    limits += [0] * (length - len(limits))
    ends = torch.tensor(limits, dtype=torch.int64)
    return ends if max_entity_tokens is None else ends.minimum(torch.arange(length) + max_entity_tokens)


def _blocks(limits: Tensor, height: int) -> Iterator[tuple[slice, slice]]:
    """Cover the cells from the diagonal to the limit of each row with blocks of rows and columns."""
    furthest = pad(limits, (0, -len(limits) % height)).view(-1, height).amax(dim=1).tolist()
    for start, stop in zip(range(0, len(limits), height), furthest, strict=True):
        for left in range(start, stop, COLUMNS):
            yield slice(start, min(start + height, stop)), slice(left, min(left + COLUMNS, stop))


def _groups(factors: SpanFactors, thresholds: Tensor) -> Iterator[_Group]:
    """Yield one group with all labels, or one for each label that has vectors of its own."""
    n_groups = factors.query.shape[1]
    size = len(thresholds) // n_groups
    thresholds = thresholds.to(factors.query.device, torch.float32)
    for index in range(n_groups):
        labels = slice(index * size, (index + 1) * size)
        query, key = factors.query[:, index].float(), factors.key[:, index].float()
        start_bias, end_bias = factors.start_bias[:, labels].float(), factors.end_bias[:, labels].float()
        greatest_end = end_bias.amax(dim=1, keepdim=True)
        bound_query, bound_key = pad(query, (0, 1), value=1.0), torch.cat((key, greatest_end), dim=1)
        # Every error of the bound is relative to a product of these norms or to a start bias.
        norms = torch.linalg.vector_norm(bound_query, dim=1) * torch.linalg.vector_norm(bound_key, dim=1).amax()
        margin = MARGIN * (norms + start_bias.abs().amax(dim=1))
        floor = -(start_bias - thresholds[labels]).amax(dim=1) - margin
        yield _Group(labels.start, query, key, start_bias, end_bias, thresholds[labels], bound_query, bound_key, floor)


def _candidates(group: _Group, limits: Tensor, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
    """Return first and last tokens of the cells of a block in which some label may exceed its threshold."""
    bounds = group.bound_query[rows] @ group.bound_key[columns].T
    floor = group.floor[rows]
    hot = (bounds.amax(dim=1) > floor).nonzero()[:, 0]
    row, column = (bounds[hot] > floor[hot, None]).nonzero(as_tuple=True)
    first, last = hot[row] + rows.start, column + columns.start
    inside = (last >= first) & (last < limits[first])
    return first[inside], last[inside]


def _score(group: _Group, first: Tensor, last: Tensor) -> Tensor:
    """Return the spans among some cells: label, first token, last token and logit in float64. Shape: (4, spans)."""
    logits = _dot(group.query[first], group.key[last]) + group.start_bias[first] + group.end_bias[last]
    cell, label = (logits > group.thresholds).nonzero(as_tuple=True)
    return torch.stack(
        (
            (label + group.first_label).double(),
            first[cell].double(),
            last[cell].double(),
            logits[cell, label].double(),
        )
    )


def _dot(query: Tensor, key: Tensor) -> Tensor:
    """Multiply vectors row by row, summed pairwise: `sum` may choose another order for another number of rows.

    Shape of the arguments: (cells, head_size). Shape of the result: (cells, 1).
    """
    products = query * key
    while products.shape[1] > 1:
        products = pad(products, (0, products.shape[1] % 2))
        products = products[:, 0::2] + products[:, 1::2]
    return products


def _to_spans(found: list[Tensor], contents: Sequence[tuple[int, int]]) -> list[list[Span]]:
    """Copy the spans to the host, all at once, and sort them into documents."""
    spans: list[list[Span]] = [[] for _ in contents]
    if not found:
        return spans
    table = torch.cat(found, dim=1).cpu()
    labels, firsts, lasts = table[:3].long().tolist()
    rows = sorted(zip(firsts, lasts, labels, table[3].tolist(), strict=True), key=lambda r: (r[0], -r[1], r[2]))
    document = 0
    for first, last, label, logit in rows:
        while first >= contents[document][1]:
            document += 1
        offset = contents[document][0]
        spans[document].append(Span(label, first - offset, last - offset, logit))
    return spans
