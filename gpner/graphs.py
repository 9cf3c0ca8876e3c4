"""Forwards of small packs on a GPU, each launched at once as a CUDA graph.

A forward is some two hundred kernels, and of a few thousand tokens launching them from Python takes longer than running
them. A graph launches them all together, but on the same memory every time, with as many tokens and documents. So a
pack is filled up to the next size, with tokens that belong to no document and with documents that have no tokens.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from gpner.attention import HALF_TYPES
from gpner.heads import SpanFactors
from gpner.model import GlobalPointerForEntities

# Tokens of the packs that have a graph. Beyond the largest the kernels should take longer than their launches;
# benchmarks/graphs.py measures it.
SIZES = (128, 256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
# The attention is launched for as many, whether they are there or not.
MOST_DOCUMENTS = 32
# How far the factors of a graph may lie from those of a forward, relative to their norm. In bf16 another number of
# rows is multiplied by another kernel; whatever goes wrong with a graph does not end there.
TOLERANCE = 0.05

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Slots:
    """The input of a forward of one size, in one piece of memory; it says where the documents lie, as `Borders`.

    Attributes:
        values: Token ids, then positions, then the documents' starts and the last one's stop, repeated for those
            without tokens. Shape: (2 x size + MOST_DOCUMENTS + 1,), int64.
        context: Most tokens that the model reads at once.
        window: How many tokens to either side a token sees; None for its whole document.
    """

    values: Tensor
    context: int
    window: int | None

    @property
    def size(self) -> int:
        """Tokens, those of no document included."""
        return (len(self.values) - MOST_DOCUMENTS - 1) // 2

    @property
    def longest(self) -> int:
        """Most tokens that a document may have."""
        return min(self.size, self.context)

    @property
    def token_ids(self) -> Tensor:
        """Shape: (size,)."""
        return self.values[: self.size]

    @property
    def positions(self) -> Tensor:
        """Shape: (size,)."""
        return self.values[self.size : 2 * self.size]

    @cached_property
    def cumulative(self) -> Tensor:
        """Shape: (MOST_DOCUMENTS + 1,), int32."""
        return self.values[2 * self.size :].int()


@dataclass(frozen=True)
class Recording:
    """A graph, the memory that it reads and the one that it writes."""

    graph: "torch.cuda.CUDAGraph"
    values: Tensor
    factors: SpanFactors


def size_for(tokens: int, documents: int) -> int | None:
    """Return the size of the graph for a pack; None where it has too many tokens or documents for any."""
    fitting = (size for size in SIZES if size >= tokens)
    return next(fitting, None) if documents <= MOST_DOCUMENTS else None


def fill(token_ids: Tensor, lengths: Sequence[int], size: int) -> Tensor:
    """Write what `Slots` holds for a pack.

    Args:
        token_ids: Token ids of all documents, one after another, on the CPU. Shape: (tokens,).
        lengths: Tokens of each document; at most MOST_DOCUMENTS.
        size: At least as many as there are tokens.
    """
    values = torch.zeros(2 * size + MOST_DOCUMENTS + 1, dtype=torch.int64)
    values[: len(token_ids)] = token_ids
    values[size : size + len(token_ids)] = torch.cat([torch.arange(length) for length in lengths])
    borders = values[2 * size :]
    borders[1 : len(lengths) + 1] = torch.tensor(lengths).cumsum(0)
    borders[len(lengths) + 1 :] = len(token_ids)
    return values


def score(model: GlobalPointerForEntities, values: Tensor) -> SpanFactors:
    """Compute the factors of what `fill` wrote. Those of tokens that belong to no document are anything."""
    slots = Slots(values, model.config.context, getattr(model.encoder.config, "attention_window", None))
    return model.score(slots.token_ids, slots)


class GraphedForward:
    """A model's forward for small packs on a GPU; the answers of one call hold until the next.

    Args:
        model: In inference, on a GPU, in a type of 16 bits, as the attention of a pack needs it there.
    """

    def __init__(self, model: GlobalPointerForEntities) -> None:
        self._model = model
        self._device = next(model.parameters()).device
        # They run one after another, so all compute in the memory of the largest, which is recorded first.
        self._stream = _stream(self._device)
        self._pool = torch.cuda.graph_pool_handle()
        self._recordings = {size: self._record(size) for size in reversed(SIZES)}

    @torch.inference_mode()
    def __call__(self, token_ids: Tensor, lengths: Sequence[int]) -> SpanFactors | None:
        """Compute the factors of a pack without waiting for them; None if there is no graph for one of this size.

        Args:
            token_ids: Token ids of all documents, one after another, on the CPU. Shape: (tokens,).
            lengths: Tokens of each document, none longer than the context.
        """
        size = size_for(len(token_ids), len(lengths))
        if size is None:
            return None
        recording = self._recordings[size]
        recording.values.copy_(fill(token_ids, lengths, size).pin_memory(), non_blocking=True)
        recording.graph.replay()
        return recording.factors.narrow(0, len(token_ids))

    @torch.inference_mode()
    def _record(self, size: int) -> Recording:
        values = fill(torch.zeros(1, dtype=torch.int64), [1], size).to(self._device)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            score(self._model, values)  # what is set up at a first time cannot be recorded
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            factors = score(self._model, values)
        return Recording(graph, values, factors)


@cache
def _stream(device: torch.device) -> "torch.cuda.Stream":
    """The one on which all is recorded: memory is shared within a stream only, and cuBLAS keeps some for each."""
    return torch.cuda.Stream(device)


def graphed(model: GlobalPointerForEntities) -> GraphedForward | None:
    """Record the graphs of a model; None, and a line in the log, where they cannot be had or give other answers."""
    if next(model.encoder.parameters()).dtype not in HALF_TYPES:
        return None
    before = torch.cuda.current_stream()
    try:
        forward = GraphedForward(model)
        wrong = [size for size in SIZES if not _agrees(model, forward, size)]
    except RuntimeError:
        torch.cuda.set_stream(before)  # a recording that CUDA broke off leaves the thread on its own stream
        logger.warning("the forwards of small batches could not be recorded, so each is slower", exc_info=True)
        return None
    if wrong:
        logger.warning("recorded forwards of %s tokens give other answers, so that none is used", wrong)
        return None
    return forward


@torch.inference_mode()
def _agrees(model: GlobalPointerForEntities, forward: GraphedForward, size: int) -> bool:
    """Compare the graph with a forward, over two documents that leave a third of the size empty."""
    lengths = [min(size // 3, model.config.context)] * 2
    ids = torch.arange(sum(lengths)) % model.encoder.config.vocab_size
    found = forward(ids, lengths)
    expected = model(ids.to(next(model.parameters()).device), lengths).factors
    pairs = zip(vars(found).values(), vars(expected).values(), strict=True)
    return all(bool((one - other).norm() <= TOLERANCE * other.norm()) for one, other in pairs)
