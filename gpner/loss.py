"""The span loss, exact and without a table of labels x length².

Multi-label categorical cross-entropy (Su et al. 2022, arXiv 2208.02955): for one document and one label

    log(1 + Σ exp(logit) over the spans that are not entities) + log(1 + Σ exp(-logit) over those that are).

Nothing is ever subtracted from a log-sum-exp: taking the positives out of the sum of all spans cancels in fp32 as soon
as one positive is confident. They are left out of the sum instead. Where all labels share their vectors, the sum
factorises: Σ_ij e^s_ij e^a_ti e^b_tj is one exp of length² numbers and a matrix product with a column per label. A span
that is positive for any label is left out of the product and added back for the labels for which it is negative.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gpner.heads import SpanFactors

# Rows of spans per block; a block is computed again in the backward pass, so memory is linear in the length.
BLOCK_ROWS = 256
# Below this share of its bound a factorised sum has lost digits to underflow and is computed term by term.
UNDERFLOW = 1e-25
NOTHING = float("-inf")


def span_loss(factors: SpanFactors, spans: Tensor, *, max_entity_tokens: int | None = None) -> Tensor:
    """Loss of one document for every label.

    Args:
        factors: Factors of the tokens that a span may start or end on, in fp32. Length L.
        spans: Label, first and last token of each entity. Shape: (entities, 3).
        max_entity_tokens: Longer spans take no part in the loss, as they take none in decoding.

    Returns:
        One loss per label. Shape: (n_labels,).
    """
    n_labels = factors.start_bias.shape[1]
    if max_entity_tokens is not None:
        spans = spans[spans[:, 2] - spans[:, 1] < max_entity_tokens]
    if factors.query.shape[1] == 1:
        return _loss_of_shared_vectors(factors, spans, max_entity_tokens)
    losses = []
    for label in range(n_labels):
        column = slice(label, label + 1)
        one = SpanFactors(
            factors.query[:, column], factors.key[:, column], factors.start_bias[:, column], factors.end_bias[:, column]
        )
        of_label = spans[spans[:, 0] == label].clone()
        of_label[:, 0] = 0
        losses.append(_loss_of_shared_vectors(one, of_label, max_entity_tokens))
    return torch.cat(losses)


def _loss_of_shared_vectors(factors: SpanFactors, spans: Tensor, band: int | None) -> Tensor:
    length, n_labels = factors.start_bias.shape
    query, key = factors.query[:, 0], factors.key[:, 0]
    cells, index = torch.unique(spans[:, 1] * length + spans[:, 2], return_inverse=True)
    first, last = cells // length, cells % length
    positive = torch.zeros(len(cells), n_labels, dtype=torch.bool, device=cells.device)
    positive[index, spans[:, 0]] = True
    scores = (query[first] * key[last]).sum(-1, keepdim=True)
    logits = scores + factors.start_bias[first] + factors.end_bias[last]

    zero = logits.new_zeros(1, n_labels)
    negatives = [zero, logits.masked_fill(positive, NOTHING)]
    for start in range(0, length, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, length)
        end = length if band is None else min(length, stop + band - 1)
        excluded = _excluded(start, stop, end, first, last, band)
        negatives.append(
            checkpoint(
                _negatives_of_rows,
                query[start:stop],
                key[start:end],
                factors.start_bias[start:stop],
                factors.end_bias[start:end],
                excluded,
                use_reentrant=False,
            )
        )
    positives = torch.cat([zero, (-logits).masked_fill(~positive, NOTHING)])
    return torch.cat(negatives).logsumexp(0) + positives.logsumexp(0)


def _excluded(start: int, stop: int, end: int, first: Tensor, last: Tensor, band: int | None) -> Tensor:
    """Mark what the factorised sum leaves out of rows `start` to `stop - 1`. Shape: (rows, end - start)."""
    rows = torch.arange(start, stop, device=first.device)[:, None]
    columns = torch.arange(start, end, device=first.device)[None]
    excluded = columns < rows
    if band is not None:
        excluded |= columns >= rows + band
    here = (first >= start) & (first < stop) & (last < end)
    excluded[first[here] - start, last[here] - start] = True
    return excluded


def _negatives_of_rows(query: Tensor, key: Tensor, start_bias: Tensor, end_bias: Tensor, excluded: Tensor) -> Tensor:
    """Log of the summed exponentials of each row's spans.

    Args:
        query: Shape: (rows, head_size).
        key: Shape: (columns, head_size).
        start_bias: Shape: (rows, n_labels).
        end_bias: Shape: (columns, n_labels).
        excluded: True where a span takes no part. Shape: (rows, columns).

    Returns:
        Shape: (rows, n_labels); -inf for a row without spans.
    """
    scores = (query @ key.T).masked_fill(excluded, NOTHING)
    empty = excluded.all(dim=1, keepdim=True)
    row_maximum = scores.detach().amax(dim=1, keepdim=True).masked_fill(empty, 0.0)
    label_maximum = end_bias.detach().amax(dim=0, keepdim=True)
    sums = (scores - row_maximum).exp() @ (end_bias - label_maximum).exp()
    lost = (sums < UNDERFLOW).any(dim=1) & ~empty[:, 0]
    summed = sums.clamp_min(UNDERFLOW).log() + row_maximum + label_maximum
    if lost.any():
        # Where the row's best score and the label's best end lie far apart, their product underflows.
        term_by_term = (scores[lost][:, :, None] + end_bias[None]).logsumexp(dim=1)
        summed = summed.masked_fill(lost[:, None], 0.0).index_put((lost.nonzero()[:, 0],), term_by_term)
    return (summed + start_bias).masked_fill(empty, NOTHING)
