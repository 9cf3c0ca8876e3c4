"""The span loss, exact and without a table of labels x length².

Multi-label categorical cross-entropy (Su et al. 2022, arXiv 2208.02955): for one document and one label

    log(1 + Σ exp(logit) over the spans that are not entities) + log(1 + Σ exp(-logit) over those that are).

Each of the two pulls with the force of about one span, its worst, however many spans and entities it covers. So a long
text is divided into segments by where spans begin, and each has a loss of its own: texts learn alike whatever their
length. Texts no longer than a segment, as those the loss was published with, are one.

Nothing is ever subtracted from a log-sum-exp: taking the positives out of the sum of all spans cancels in fp32 as soon
as one positive is confident. They are left out of the sum instead. Where all labels share their vectors, the sum
factorises: Σ_ij e^s_ij e^a_ti e^b_tj is one exp of length² numbers and a matrix product with a column per label. A span
that is positive for any label is left out of the product and added back for the labels for which it is negative.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gpner.heads import SpanFactors

# Rows of spans per block; a block is computed again in the backward pass, so memory is linear in the length.
BLOCK_ROWS = 256
# Documents up to this length keep their blocks instead: five bytes a span, so at most 2.5 KB a token for each set of
# vectors, where an encoder of six layers and hidden size 384 keeps 200 KB a token.
KEPT_LENGTH = 512
# Below this share of its bound a factorised sum has lost digits to underflow and is computed term by term.
UNDERFLOW = 1e-25
NOTHING = float("-inf")


def span_loss(
    factors: SpanFactors, spans: Tensor, *, max_entity_tokens: int | None = None, segment_tokens: int | None = None
) -> Tensor:
    """Loss of one document for every segment and label.

    Args:
        factors: Factors of the tokens that a span may start or end on, in fp32. Length L.
        spans: Label, first and last token of each entity. Shape: (entities, 3).
        max_entity_tokens: Longer spans take no part in the loss, as they take none in decoding.
        segment_tokens: About how many first tokens of spans share a loss; None for those of the whole document. A span
            belongs to the segment that it begins in, wherever it ends.

    Returns:
        Shape: (`n_segments(L, segment_tokens)`, n_labels).
    """
    if max_entity_tokens is not None:
        spans = spans[spans[:, 2] - spans[:, 1] < max_entity_tokens]
    segments = n_segments(factors.query.shape[0], segment_tokens)
    if factors.query.shape[1] == 1:
        return _loss_of_shared_vectors(factors, spans, max_entity_tokens, segments)
    losses = []
    tensors = (factors.query, factors.key, factors.start_bias, factors.end_bias)
    for label, of_label in enumerate(zip(*(tensor.split(1, dim=1) for tensor in tensors), strict=True)):
        own = spans[spans[:, 0] == label].clone()
        own[:, 0] = 0
        losses.append(_loss_of_shared_vectors(SpanFactors(*of_label), own, max_entity_tokens, segments))
    return torch.cat(losses, dim=1)


def n_segments(length: int, segment_tokens: int | None) -> int:
    """Into how many parts of nearly equal length a text is divided for the loss."""
    return 1 if segment_tokens is None else max(1, round(length / segment_tokens))


def _loss_of_shared_vectors(factors: SpanFactors, spans: Tensor, band: int | None, segments: int) -> Tensor:
    length, n_labels = factors.start_bias.shape
    cells, index = torch.unique(spans[:, 1] * length + spans[:, 2], return_inverse=True)
    first, last = cells // length, cells % length
    positive = torch.zeros(len(cells), n_labels, dtype=torch.bool, device=cells.device)
    positive[index, spans[:, 0]] = True
    scores = (factors.query[first, 0] * factors.key[last, 0]).sum(-1, keepdim=True)
    logits = scores + factors.start_bias[first] + factors.end_bias[last]

    rows = torch.arange(length, device=cells.device)
    segment_of_cells, segment_of_rows = (tokens * segments // length for tokens in (first, rows))
    negatives = [logits.masked_fill(positive, NOTHING), *_negatives(factors, first, last, band)]
    positives = (-logits).masked_fill(~positive, NOTHING)
    return _log_one_plus_sums(
        torch.cat(negatives), torch.cat((segment_of_cells, segment_of_rows)), segments
    ) + _log_one_plus_sums(positives, segment_of_cells, segments)


def _log_one_plus_sums(exponents: Tensor, segment: Tensor, segments: int) -> Tensor:
    """Compute log(1 + Σ exp(exponent)) of the rows of each segment.

    Args:
        exponents: Shape: (rows, n_labels).
        segment: The segment of each row. Shape: (rows,).
        segments: How many there are.

    Returns:
        Shape: (segments, n_labels).
    """
    exponents = exponents.double()  # added up one after another, which costs digits that fp32 does not have
    zero = exponents.new_zeros(segments, exponents.shape[1])
    maximum = zero.scatter_reduce(0, segment[:, None].expand_as(exponents), exponents.detach(), "amax")
    sums = (-maximum).exp().index_add(0, segment, (exponents - maximum[segment]).exp())
    return (maximum + sums.log()).float()


def _negatives(factors: SpanFactors, first: Tensor, last: Tensor, band: int | None) -> Iterator[Tensor]:
    """Yield `_negatives_of_rows` for each block of rows; the spans `first`..`last` take no part."""
    length = factors.query.shape[0]
    for start in range(0, length, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, length)
        end = length if band is None else min(length, stop + band - 1)
        here = (first >= start) & (first < stop)
        block = (
            factors.query[start:stop, 0],
            factors.key[start:end, 0],
            factors.start_bias[start:stop],
            factors.end_bias[start:end],
            first[here] - start,
            last[here] - start,
            band,
        )
        if length <= KEPT_LENGTH:
            yield _negatives_of_rows(*block)
        else:
            yield checkpoint(_negatives_of_rows, *block, use_reentrant=False, preserve_rng_state=False)


def _negatives_of_rows(
    query: Tensor,
    key: Tensor,
    start_bias: Tensor,
    end_bias: Tensor,
    first: Tensor,
    last: Tensor,
    band: int | None,
) -> Tensor:
    """Log of the summed exponentials of each row's spans.

    Args:
        query: Shape: (rows, head_size).
        key: Shape: (columns, head_size); column 0 is the token of row 0.
        start_bias: Shape: (rows, n_labels).
        end_bias: Shape: (columns, n_labels).
        first: Row of each span that takes no part.
        last: Its column.
        band: Most tokens of a span, or None.

    Returns:
        Shape: (rows, n_labels); -inf for a row without spans.
    """
    scores = (query @ key.T).masked_fill_(_excluded(query.shape[0], key.shape[0], first, last, band), NOTHING)
    row_maximum = scores.detach().amax(dim=1, keepdim=True)
    empty = row_maximum == NOTHING
    row_maximum = row_maximum.masked_fill(empty, 0.0)
    label_maximum = end_bias.detach().amax(dim=0, keepdim=True)
    scores = scores.sub_(row_maximum)
    sums = scores.exp() @ (end_bias - label_maximum).exp()
    lost = (sums < UNDERFLOW).any(dim=1) & ~empty[:, 0]
    summed = sums.clamp_min(UNDERFLOW).log() + label_maximum
    if lost.any():
        # Where the row's best score and the label's best end lie far apart, their product underflows.
        term_by_term = (scores[lost][:, :, None] + end_bias[None]).logsumexp(dim=1)
        summed = summed.masked_fill(lost[:, None], 0.0).index_put((lost.nonzero()[:, 0],), term_by_term)
    return (summed + row_maximum + start_bias).masked_fill(empty, NOTHING)


def _excluded(rows: int, columns: int, first: Tensor, last: Tensor, band: int | None) -> Tensor:
    """Mark what the factorised sum leaves out. Shape: (rows, columns)."""
    every = torch.ones(rows, columns, dtype=torch.bool, device=first.device)
    excluded = every.tril(-1)
    if band is not None:
        excluded |= every.triu(band)
    excluded[first, last] = True
    return excluded
