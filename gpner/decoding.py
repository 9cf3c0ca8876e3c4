"""From span factors to spans, without ever holding a score per label and pair of tokens.

Blocks of rows of the upper triangle get an upper bound of their best label's logit from one matrix product: the end
bias of the most favourable label rides along as one more channel. Only rows whose bound passes are looked at cell by
cell, and only cells whose bound passes get a logit per label. A logit is then computed from the span's own two vectors,
never taken from the matrix product, so that it depends neither on the block nor on the other documents of a pack.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
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


class Cells(NamedTuple):
    """Spans of tokens that may be entities, each of the labels of one group. Shape of all three: (cells,), int64."""

    group: Tensor
    first: Tensor
    last: Tensor


class Bounds(NamedTuple):
    """What bounds the logits of each group of labels that share their vectors, in fp32.

    query[i, g] · key[j, g] + greatest_end[j, g], however coarsely multiplied, exceeds floor[i, g] wherever a label of
    group g may exceed its threshold from token i to token j. Shape of the first two: (length, groups, head_size), of
    the others: (length, groups).
    """

    query: Tensor
    key: Tensor
    greatest_end: Tensor
    floor: Tensor


# From the bounds, and where spans that start at each token must end (`_limits`), to the cells within these limits whose
# bound passes, in any order and in pieces that fit in memory.
Search = Callable[[Bounds, Tensor], Iterator[Cells]]


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
    return _decode(_search_on(factors.query.device), factors, contents, limits, thresholds)


def _decode(
    search: Search, factors: SpanFactors, contents: Sequence[tuple[int, int]], limits: Tensor, thresholds: Tensor
) -> list[list[Span]]:
    if not limits.any():
        return [[] for _ in contents]
    if factors.query.is_cuda:
        limits = limits.pin_memory()  # else copying it would wait for the GPU
    factors = SpanFactors(*(tensor.float() for tensor in vars(factors).values()))
    thresholds = thresholds.to(factors.query.device, torch.float32).view(factors.query.shape[1], -1)
    found: list[Tensor] = []
    for cells in search(_bounds(factors, thresholds), limits):
        if len(cells.first):
            pieces = zip(*(torch.split(tensor, CELLS) for tensor in cells), strict=True)
            found += [_score(factors, thresholds, Cells(*piece)) for piece in pieces]
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
    borders = torch.tensor([0, *(border for content in contents for border in content), length])
    limit_of_stretch = torch.tensor([0, *(limit for _, stop in contents for limit in (stop, 0))])
    limits = limit_of_stretch.repeat_interleave(borders.diff())
    return limits if max_entity_tokens is None else limits.minimum(torch.arange(length) + max_entity_tokens)


@cache
def _search_on(device: torch.device) -> Search:
    """Choose the kernel where there is a GPU, and Triton can compile for it."""
    if device.type == "cuda" and find_spec("triton") is not None:
        from gpner import decoding_triton

        if decoding_triton.compiles(device):
            return decoding_triton.find_cells
    return _find_cells


def _bounds(factors: SpanFactors, thresholds: Tensor) -> Bounds:
    """Bound the logits of all labels of a group at once. Shape of the thresholds: (groups, labels of a group)."""
    start_bias = factors.start_bias.unflatten(1, thresholds.shape)
    greatest_end = factors.end_bias.unflatten(1, thresholds.shape).amax(dim=2)
    # Every error of the bound is relative to a product of these norms or to a bias.
    norms = torch.linalg.vector_norm(factors.query, dim=2) * torch.linalg.vector_norm(factors.key, dim=2).amax(dim=0)
    margin = MARGIN * (norms + greatest_end.abs().amax(dim=0) + start_bias.abs().amax(dim=2))
    return Bounds(factors.query, factors.key, greatest_end, -(start_bias - thresholds).amax(dim=2) - margin)


def _find_cells(bounds: Bounds, limits: Tensor) -> Iterator[Cells]:
    """Search block by block in torch alone."""
    blocks = list(_blocks(limits, GPU_ROWS if bounds.query.is_cuda else CPU_ROWS))
    limits = limits.to(bounds.query.device, non_blocking=True)
    for group in range(bounds.query.shape[1]):
        query = pad(bounds.query[:, group], (0, 1), value=1.0)
        key = torch.cat((bounds.key[:, group], bounds.greatest_end[:, group, None]), dim=1)
        for rows, columns in blocks:
            first, last = _hot_cells(query[rows] @ key[columns].T, bounds.floor[rows, group])
            first, last = first + rows.start, last + columns.start
            inside = (last >= first) & (last < limits[first])
            yield Cells(torch.full_like(first[inside], group), first[inside], last[inside])


def _blocks(limits: Tensor, height: int) -> Iterator[tuple[slice, slice]]:
    """Cover the cells from the diagonal to the limit of each row with blocks of rows and columns."""
    furthest = pad(limits, (0, -len(limits) % height)).view(-1, height).amax(dim=1).tolist()
    for start, stop in zip(range(0, len(limits), height), furthest, strict=True):
        for left in range(start, stop, COLUMNS):
            yield slice(start, min(start + height, stop)), slice(left, min(left + COLUMNS, stop))


def _hot_cells(bounds: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows and columns where the bounds pass the floor of the row; most rows are dismissed as a whole."""
    hot = (bounds.amax(dim=1) > floor).nonzero()[:, 0]
    row, column = (bounds[hot] > floor[hot, None]).nonzero(as_tuple=True)
    return hot[row], column


def _score(factors: SpanFactors, thresholds: Tensor, cells: Cells) -> Tensor:
    """Return the spans among some cells: label, first token, last token and logit in float64. Shape: (4, spans)."""
    group, first, last = cells
    start_bias = factors.start_bias.unflatten(1, thresholds.shape)[first, group]
    end_bias = factors.end_bias.unflatten(1, thresholds.shape)[last, group]
    logits = _dot(factors.query[first, group], factors.key[last, group]) + start_bias + end_bias
    cell, label = (logits > thresholds[group]).nonzero(as_tuple=True)
    return torch.stack(
        (
            (group[cell] * thresholds.shape[1] + label).double(),
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
