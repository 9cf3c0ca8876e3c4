"""Attention over a pack: many documents in one sequence, each seeing only itself.

Registered with transformers under one name, so that every encoder that takes its attention from the interface runs
packed without model code of ours. Only this function may ever see a pack: the stock ones ignore where documents end and
let them contaminate each other.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from inspect import signature
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from gpner.errors import EncoderError

IMPLEMENTATION = "gpner_packed"
# Rows of queries per block on the CPU, so that their scores stay in its caches: of whole documents, where they are as
# long as the document, and of those with an attention window.
QUERY_ROWS = 128
WINDOW_ROWS = 256
# Scores of a block for each thread: 1 MB in bf16, about what a core's own cache holds.
THREAD_SCORES = 2**19
# Where a token sees more others, no weights are kept for the backward pass: they grow with the square of the length.
KEPT_COLUMNS = 1024
# Documents of at most this many tokens share batched calls, padded to a multiple of SHORT_STEP.
SHORT_TOKENS = 256
SHORT_STEP = 16
# What the GPU's kernel computes in; other types take the way of the CPU.
HALF_TYPES = (torch.bfloat16, torch.float16)
# What some encoders ask of their attention function that a pack does not give.
OTHER_ATTENTION = ("sliding_window", "position_bias", "softcap", "is_causal", "s_aux")


@dataclass(frozen=True)
class ShortGroup:
    """Short documents of one padded length, computed in one batched call.

    Attributes:
        index: Where each padded token lies in the pack; padding points at token 0. Shape: (documents, padded length).
        padding: True at padding. Shape: (documents, padded length).
        unseen: True where a token (row) does not see another. Shape: (documents, 1 or padded length, padded length).
    """

    index: Tensor
    padding: Tensor
    unseen: Tensor


class Borders(Protocol):
    """Where the documents of a pack lie, as a GPU has to know it."""

    @property
    def positions(self) -> Tensor:
        """Position of each token in its document. Shape: (tokens,)."""

    @property
    def cumulative(self) -> Tensor:
        """Where each document starts, and where the last one stops. Shape: (documents + 1,), int32."""

    @property
    def longest(self) -> int:
        """Most tokens that a document may have."""

    @property
    def window(self) -> int | None:
        """How many tokens to either side a token sees; None for its whole document."""


@dataclass(frozen=True)
class Pack:
    """Where the documents of a pack lie. Made once per forward, read by every layer.

    Attributes:
        lengths: Tokens of each document, in the order of the pack.
        device: Where the pack's tensors live.
        window: How many tokens to either side a token sees; None for its whole document.
    """

    lengths: tuple[int, ...]
    device: torch.device
    window: int | None = None
    starts: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        starts, total = [], 0
        for length in self.lengths:
            starts.append(total)
            total += length
        object.__setattr__(self, "starts", tuple(starts))

    @cached_property
    def positions(self) -> Tensor:
        """Position of each token in its document. Shape: (tokens,)."""
        return self._there(torch.cat([torch.arange(length) for length in self.lengths]))

    @cached_property
    def cumulative(self) -> Tensor:
        """Document borders for the GPU kernel. Shape: (documents + 1,), int32."""
        return self._there(torch.tensor([*self.starts, sum(self.lengths)], dtype=torch.int32))

    @property
    def longest(self) -> int:
        """Tokens of the longest document."""
        return max(self.lengths)

    def _there(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()  # else the host would wait for the GPU
        return tensor.to(self.device, non_blocking=True)

    @cached_property
    def long_documents(self) -> list[tuple[int, int]]:
        """Start and stop of each document that is computed alone."""
        return [(s, s + n) for s, n in zip(self.starts, self.lengths, strict=True) if n > SHORT_TOKENS]

    @cached_property
    def short_groups(self) -> list[ShortGroup]:
        """The other documents, by padded length, which depends on a document alone and never on its neighbours."""
        by_padded_length: dict[int, list[tuple[int, int]]] = {}
        for start, length in zip(self.starts, self.lengths, strict=True):
            if length <= SHORT_TOKENS:
                by_padded_length.setdefault(-(-length // SHORT_STEP) * SHORT_STEP, []).append((start, length))
        return [self._group(padded, members) for padded, members in by_padded_length.items()]

    def _group(self, padded: int, members: list[tuple[int, int]]) -> ShortGroup:
        starts = torch.tensor([start for start, _ in members])[:, None]
        lengths = torch.tensor([length for _, length in members])[:, None]
        steps = torch.arange(padded)[None]
        padding = steps >= lengths
        index = (starts + steps).masked_fill(padding, 0)
        unseen = padding[:, None]
        if self.window is not None and self.window < padded - 1:
            # A row that saw nothing at all would be no number: padding sees itself.
            unseen = (unseen | _far(slice(0, padded), slice(0, padded), self.window)) & ~torch.eye(padded).bool()
        return ShortGroup(index.to(self.device), padding.to(self.device), unseen.to(self.device))


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    pack: Borders | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within each document of a pack, as a transformers attention function.

    Args:
        module: The attention layer; unused, part of the interface.
        query: Shape: (1, heads, tokens, head size), like `key` and `value`.
        key: See `query`.
        value: See `query`.
        attention_mask: Always None: transformers builds no mask for a function registered without one.
        scaling: Factor of the scores; 1/√head size if None.
        dropout: Must be 0: long-context training does without attention dropout.
        pack: Where the documents lie; a `Pack` wherever the GPU's kernel does not compute.
        **kwargs: What else the encoder passes on; must not narrow or bias the attention.

    Returns:
        The context vectors, shape (1, tokens, heads, head size), and no weights.

    Raises:
        EncoderError: If it is called without a pack, with a mask, with dropout, or with a kind of attention other than
            that of every token to every token of its document, or to those of the pack's window.
    """
    special = [name for name in OTHER_ATTENTION if kwargs.get(name) is not None and kwargs[name] is not False]
    if special:
        raise EncoderError(
            f"the encoder must attend to whole documents to run packed, it asks for: {', '.join(special)}; "
            "choose an encoder such as BERT, RoBERTa or ALBERT"
        )
    if pack is None or attention_mask is not None or dropout:
        raise EncoderError(
            "packed attention must get a pack, no mask and no dropout; call the encoder through "
            "GlobalPointerForEntities, and set attention_probs_dropout_prob to 0"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if query.is_cuda and query.dtype in HALF_TYPES:
        return _varlen(query, key, value, scale, pack), None
    return _chunked(query, key, value, scale, cast(Pack, pack)), None


def _varlen(query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Borders) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))
    context = varlen_attn(
        query,
        key,
        value,
        pack.cumulative,
        pack.cumulative,
        pack.longest,
        pack.longest,
        scale=scale,
        **_same_bits(),
        **_windowed(pack.window),
    )
    return cast(Tensor, context)[None]


@cache
def _varlen_parameters() -> frozenset[str]:
    from torch.nn.attention.varlen import varlen_attn

    return frozenset(signature(varlen_attn).parameters)


def _same_bits() -> dict[str, Any]:
    """Ask for a document's same bits whatever its pack, where torch can promise them (from 2.12 on)."""
    return {"num_splits": 1} if "num_splits" in _varlen_parameters() else {}


def _windowed(window: int | None) -> dict[str, Any]:
    if window is None:
        return {}
    if "window_size" not in _varlen_parameters():
        raise EncoderError(
            f"an attention window on the GPU needs a torch whose varlen_attn has window_size, {torch.__version__} has "
            "not; update torch"
        )
    return {"window_size": (window, window)}


def _chunked(query: Tensor, key: Tensor, value: Tensor, scale: float, pack: Pack) -> Tensor:
    query, key, value = query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1)
    pieces: list[Tensor] = []
    places: list[Tensor] = []
    for group in pack.short_groups:
        kept = ~group.padding
        index = group.index
        pieces.append(_attend_short(query[index], key[index], value[index], group.unseen, scale)[kept])
        places.append(group.index[kept])
    for start, stop in pack.long_documents:
        by_head = [tensor[start:stop].transpose(0, 1) for tensor in (query, key, value)]
        attend = _choose(query, key, value, stop - start, pack.window)
        pieces.append(attend(by_head[0], by_head[1], by_head[2], scale, pack.window).transpose(0, 1))
        places.append(torch.arange(start, stop, device=query.device))
    context = torch.empty_like(query, memory_format=torch.contiguous_format)
    return context.index_copy(0, torch.cat(places), torch.cat(pieces))[None]


def _choose(query: Tensor, key: Tensor, value: Tensor, length: int, window: int | None) -> Callable[..., Tensor]:
    """Return the fastest way through one document of this length."""
    if query.dtype not in HALF_TYPES:
        return _attend_fused
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))):
        return _attend_in_place
    columns = length if window is None else min(length, WINDOW_ROWS + 2 * window)
    return _attend_in_blocks if columns <= KEPT_COLUMNS else _attend_fused


def _attend_short(query: Tensor, key: Tensor, value: Tensor, unseen: Tensor, scale: float) -> Tensor:
    """Attend in a batch of padded documents. Shape of the first three: (documents, padded length, heads, head size)."""
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    scores = (query * scale) @ key.transpose(-1, -2)
    weights = scores.masked_fill(unseen[:, None], float("-inf")).softmax(dim=-1)
    return (weights @ value).transpose(1, 2)


def _attend_in_place(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
    """Do what `_attend_in_blocks` does, to the bit, without gradients: all blocks share one piece of memory.

    It stays in the caches, and no block leaves a hole behind: with tensors of their own, blocks of 16,384 columns took
    6 GB of the heap and twice the time.
    """
    query, key, value = (query * scale).contiguous(), key.contiguous(), value.contiguous()
    keys = key.transpose(-1, -2)
    context = torch.empty_like(query)
    n_heads = query.shape[0]
    blocks = list(_blocks(query.shape[1], window))
    head_scores = max((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in blocks)
    threads = torch.get_num_threads()
    step = min(n_heads, max(threads, threads * THREAD_SCORES // head_scores))
    memory = query.new_empty(step * head_scores)
    for rows, columns in blocks:
        far = None if window is None else _far(rows, columns, window)
        for first in range(0, n_heads, step):
            heads = slice(first, first + step)
            block = query[heads, rows]
            shape = (*block.shape[:2], columns.stop - columns.start)
            scores = memory[: math.prod(shape)].view(shape)
            torch.bmm(block, keys[heads, :, columns], out=scores)
            if far is not None:
                scores.masked_fill_(far, float("-inf"))
            torch.softmax(scores, dim=-1, out=scores)
            context[heads, rows] = scores @ value[heads, columns]
    return context


def _attend_in_blocks(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
    """Attend in one document, block by block. Shape of query, key and value: (heads, length, head size).

    In bf16, on CPUs without AMX, this is 1.9 times as fast as scaled_dot_product_attention, there and back. In fp32 it
    takes three to four times as long.
    """
    # Every product would make its own copy of what is not contiguous.
    query, key, value = (query * scale).contiguous(), key.contiguous(), value.contiguous()
    keys = key.transpose(-1, -2)
    context = []
    for rows, columns in _blocks(query.shape[1], window):
        scores = query[:, rows] @ keys[:, :, columns]
        if window is not None:
            scores = scores.masked_fill(_far(rows, columns, window).to(scores.device), float("-inf"))
        context.append(scores.softmax(dim=-1) @ value[:, columns])
    return torch.cat(context, dim=1)


def _attend_fused(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
    """Attend in one document in memory linear in its length, backwards too. Shapes as in `_attend_in_blocks`."""
    if window is None:
        return scaled_dot_product_attention(query[None], key[None], value[None], scale=scale)[0]
    context = []
    for rows, columns in _blocks(query.shape[1], window):
        seen = ~_far(rows, columns, window).to(query.device)
        block = query[None, :, rows], key[None, :, columns], value[None, :, columns]
        context.append(scaled_dot_product_attention(*block, attn_mask=seen, scale=scale)[0])
    return torch.cat(context, dim=1)


def _blocks(length: int, window: int | None) -> Iterator[tuple[slice, slice]]:
    """Yield blocks of query rows of a document, each with the columns of keys that some of them see."""
    step, reach = (QUERY_ROWS, length) if window is None else (WINDOW_ROWS, window)
    for start in range(0, length, step):
        stop = min(start + step, length)
        yield slice(start, stop), slice(max(0, start - reach), min(length, stop + reach))


def _far(rows: slice, columns: slice, window: int) -> Tensor:
    """True where two tokens lie more than a window apart. Shape: (rows, columns)."""
    row, column = torch.arange(rows.start, rows.stop), torch.arange(columns.start, columns.stop)
    return (row[:, None] - column[None]).abs() > window


AttentionInterface.register(IMPLEMENTATION, packed_attention)
