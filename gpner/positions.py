"""Longer position tables for encoders that were pretrained on short ones.

A table of n learned positions is stretched to at most n² without touching its first n rows, so that an extended
encoder reads what fits its old context exactly as before. It happens once, to the weights: what is saved is an ordinary
encoder. An attention window, if it is given one, stands in its configuration, where the packed attention looks for it.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gpner.errors import ConfigError, EncoderError, ShapeError

Method = Literal["hierarchical", "tiled", "random"]
Anchor = Literal["mean", "first"]


def extend_positions(
    table: Tensor,
    length: int,
    *,
    method: Method = "hierarchical",
    alpha: float = 0.4,
    anchor: Anchor = "mean",
    std: float = 0.02,
    seed: int = 0,
) -> Tensor:
    """Lengthen a table of position embeddings.

    `hierarchical` gives position i·n + j the row p[j] + α/(1 − α)·(p[i] − anchor) (Su Jianlin, kexue.fm 7947;
    `PositionEmbedding.hierarchical` in bert4keras, where the anchor is p[0]). In real tables p[0] is an outlier, which
    pulls all further rows away from what the encoder knows; the mean of the other rows is not.

    `tiled` begins anew every n positions (Longformer, Beltagy et al. 2020, section 5): neighbours have the rows that
    they had in pretraining, but so have tokens n apart. It goes with an attention window.

    Args:
        table: The pretrained rows p. Shape: (n, hidden_size).
        length: Rows wanted, at least n; at most n² if hierarchical.
        method: `hierarchical`, `tiled`, or `random` for rows that need training on long text.
        alpha: Weight of the coarse position i against the fine one j, between 0 and 1; not 0.5, which would make
            (i, j) and (j, i) the same position.
        anchor: What p[i] is measured from: `mean` of p[1:], or the `first` row, as in the reference.
        std: Standard deviation of random rows.
        seed: Seed of random rows.

    Returns:
        A new table in the same dtype, whose first n rows are those of `table` to the bit. Shape: (length, hidden_size).

    Raises:
        ConfigError: If an option is out of its range.
        ShapeError: If the table is not a table.
    """
    if table.dim() != 2 or not len(table):
        raise ShapeError(f"a position table must be of shape (positions, hidden_size), was: {tuple(table.shape)}")
    if length < len(table):
        raise ConfigError(f"the extended table must keep all {len(table)} rows, asked for: {length}")
    if method == "hierarchical":
        further = _hierarchical(table.float(), length, alpha, anchor)
    elif method == "tiled":
        further = table[torch.arange(len(table), length, device=table.device) % len(table)]
    elif method == "random":
        generator = torch.Generator().manual_seed(seed)
        further = std * torch.randn(length - len(table), table.shape[1], generator=generator)
    else:
        raise ConfigError(f"method must be 'hierarchical', 'tiled' or 'random', was: {method!r}")
    return torch.cat((table, further.to(table)))


def extend_encoder(
    encoder: PreTrainedModel,
    context: int,
    *,
    method: Method = "hierarchical",
    alpha: float = 0.4,
    anchor: Anchor = "mean",
    attention_window: int | None = None,
) -> None:
    """Lengthen an encoder's context in place: its position table, the buffers of that length and its configuration.

    Rows before the first position, which RoBERTa-like tables have, are kept and count neither as positions nor in the
    hierarchy.

    Args:
        encoder: A transformers encoder with an absolute position table.
        context: Positions it is to have, special tokens included; at least those that it has.
        method: See `extend_positions`.
        alpha: See `extend_positions`.
        anchor: See `extend_positions`.
        attention_window: How many tokens to either side a token shall see, in every layer; None for all.

    Raises:
        EncoderError: If it has no absolute position table, or one that cannot be lengthened alone.
        ConfigError: If the context or an option is out of its range.
    """
    old = _table(encoder)
    if old is None:
        raise EncoderError(
            f"the encoder must have an absolute position table to extend, {encoder.config.model_type} has none: "
            "it needs no extension; use it as it is"
        )
    if getattr(encoder.config, "relative_attention", False) or encoder.config.max_position_embeddings != len(
        old.weight
    ):
        raise EncoderError(
            f"the encoder's position table must be the only thing that max_position_embeddings sizes, in this "
            f"{encoder.config.model_type} it is not; choose a BERT-like encoder"
        )
    if attention_window is not None and attention_window < 1:
        raise ConfigError(f"attention_window must be at least 1 token, was: {attention_window}")
    offset = position_offset(encoder)
    positions = old.weight.detach()[offset:]
    if context < len(positions):
        raise ConfigError(f"context must be at least the {len(positions)} positions of the encoder, was: {context}")
    longer = extend_positions(positions, context, method=method, alpha=alpha, anchor=anchor)
    _resize(encoder, old, torch.cat((old.weight.detach()[:offset], longer)))
    # Saved with the encoder, so that a checkpoint says where its rows come from.
    made = {"alpha": alpha, "anchor": anchor} if method == "hierarchical" else {}
    encoder.config.position_extension = {"method": method, "from": len(positions), **made}
    if attention_window is not None:
        encoder.config.attention_window = attention_window


def position_offset(encoder: PreTrainedModel) -> int:
    """Return the position id of a text's first token: 0, or padding_idx + 1 in RoBERTa-like encoders."""
    table = _table(encoder)
    return 0 if table is None or table.padding_idx is None else table.padding_idx + 1


def _hierarchical(table: Tensor, length: int, alpha: float, anchor: Anchor) -> Tensor:
    """Return the rows after the table's own. Shape: (length - n, hidden_size)."""
    n = len(table)
    if not 0 < alpha < 1 or alpha == 0.5:
        raise ConfigError(f"alpha must lie between 0 and 1 and not be 0.5, was: {alpha}")
    if anchor not in ("mean", "first"):
        raise ConfigError(f"anchor must be 'mean' or 'first', was: {anchor!r}")
    if length > n**2:
        raise ConfigError(f"a table of {n} positions can be extended to at most {n**2}, asked for: {length}")
    position = torch.arange(n, length, device=table.device)
    origin = table[0] if anchor == "first" else table[1:].mean(dim=0)
    return table[position % n] + alpha / (1 - alpha) * (table[position // n] - origin)


def _table(encoder: PreTrainedModel) -> nn.Embedding | None:
    embeddings: Any = getattr(encoder, "embeddings", None)
    table = getattr(embeddings, "position_embeddings", None)
    return table if isinstance(table, nn.Embedding) else None


def _resize(encoder: PreTrainedModel, table: nn.Embedding, weight: Tensor) -> None:
    """Put the rows in place, and resize all that transformers sizes by `max_position_embeddings`."""
    table.weight = nn.Parameter(weight, requires_grad=table.weight.requires_grad)
    table.num_embeddings = encoder.config.max_position_embeddings = len(weight)
    embeddings: Any = encoder.embeddings
    buffers = dict(embeddings.named_buffers(recurse=False))
    if "position_ids" in buffers:
        embeddings.position_ids = torch.arange(len(weight), device=weight.device)[None]
    if "token_type_ids" in buffers:
        embeddings.token_type_ids = torch.zeros(1, len(weight), dtype=torch.long, device=weight.device)
