"""The span heads: token states in, the factors of every span's score out.

A score per label and pair of tokens would need labels x length² numbers. Each head here stops one step earlier, at two
vectors and two biases per token, from which decoding and loss compute only the scores that they need.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gpner.config import GlobalPointerConfig

ROTARY_BASE = 10_000.0


@dataclass(frozen=True)
class SpanFactors:
    """What the scores of all spans of one document, or of one pack, are made of.

    logit(t, i, j) = query[i, g] · key[j, g] + start_bias[i, t] + end_bias[j, t] for i <= j, where g is t if every
    label has vectors of its own and 0 if all labels share them.

    Attributes:
        query: Start vectors, rotated and divided by √head_size. Shape: (length, 1 or n_labels, head_size).
        key: End vectors, rotated. Shape: that of `query`.
        start_bias: Shape: (length, n_labels); zeros for the plain GlobalPointer.
        end_bias: Shape: (length, n_labels); zeros for the plain GlobalPointer.
    """

    query: Tensor
    key: Tensor
    start_bias: Tensor
    end_bias: Tensor

    def narrow(self, start: int, stop: int) -> "SpanFactors":
        """Return the factors of the tokens `start` to `stop - 1`."""
        return SpanFactors(
            self.query[start:stop],
            self.key[start:stop],
            self.start_bias[start:stop],
            self.end_bias[start:stop],
        )


def rotate(vectors: Tensor, positions: Tensor) -> Tensor:
    """Rotate interleaved pairs by their position (RoFormer, Su et al. 2021, section 3.2.2).

    Args:
        vectors: Shape: (length, groups, head_size), head_size even.
        positions: Position of each token in its document. Shape: (length,).

    Returns:
        The rotated vectors; products of two of them depend on the distance alone. Shape: that of `vectors`.
    """
    head_size = vectors.shape[-1]
    exponents = torch.arange(0, head_size, 2, dtype=torch.float32, device=vectors.device) / head_size
    angles = positions[:, None].float() * ROTARY_BASE**-exponents
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    even, odd = vectors[..., 0::2], vectors[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)


class EfficientGlobalPointer(nn.Module):
    """One pair of vectors for all labels, and a start and an end bias for each (Su Jianlin, kexue.fm 8877).

    The biases read the projected token (the published final form) or, with `bias_from="hidden"`, the encoder's state.
    In both, channel 2t of the second layer belongs to the end of label t and channel 2t + 1 to its start, as in
    bert4keras, so that its weights can be carried over.
    """

    def __init__(self, hidden_size: int, config: GlobalPointerConfig) -> None:
        super().__init__()
        self.bias_from = config.bias_from
        self.projection = nn.Linear(hidden_size, 2 * config.head_size)
        bias_inputs = hidden_size if config.bias_from == "hidden" else 2 * config.head_size
        self.label_projection = nn.Linear(bias_inputs, 2 * len(config.labels))

    def forward(self, hidden: Tensor, positions: Tensor) -> SpanFactors:
        """Turn token states into span factors.

        Args:
            hidden: Shape: (length, hidden_size).
            positions: Position of each token in its document. Shape: (length,).
        """
        projected = self.projection(hidden)
        query, key = projected[:, None, 0::2], projected[:, None, 1::2]
        bias = self.label_projection(hidden if self.bias_from == "hidden" else projected) / 2
        scale = query.shape[-1] ** -0.5
        return SpanFactors(
            rotate(query, positions) * scale,
            rotate(key, positions),
            bias[:, 1::2].contiguous(),
            bias[:, 0::2].contiguous(),
        )


class GlobalPointer(nn.Module):
    """A pair of vectors for every label and no biases (Su et al. 2022, arXiv 2208.03054, section 3)."""

    def __init__(self, hidden_size: int, config: GlobalPointerConfig) -> None:
        super().__init__()
        self.n_labels = len(config.labels)
        self.projection = nn.Linear(hidden_size, self.n_labels * 2 * config.head_size)

    def forward(self, hidden: Tensor, positions: Tensor) -> SpanFactors:
        """Turn token states into span factors.

        Args:
            hidden: Shape: (length, hidden_size).
            positions: Position of each token in its document. Shape: (length,).
        """
        query, key = self.projection(hidden).unflatten(-1, (self.n_labels, -1)).chunk(2, dim=-1)
        no_bias = hidden.new_zeros(hidden.shape[0], self.n_labels)
        return SpanFactors(rotate(query, positions) * query.shape[-1] ** -0.5, rotate(key, positions), no_bias, no_bias)


HEADS: dict[str, type[EfficientGlobalPointer] | type[GlobalPointer]] = {
    "efficient_global_pointer": EfficientGlobalPointer,
    "global_pointer": GlobalPointer,
}
