"""An encoder as a file for ONNX Runtime, and whether it says what the encoder does."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

# Between two libraries that compute the same in fp32.
TOLERANCE = 1e-3


def export(encoder: nn.Module, path: Path) -> None:
    """Write an encoder of transformers for batches of any size and length."""
    dynamic = {0: torch.export.Dim("documents", min=1, max=4096), 1: torch.export.Dim("tokens", min=2, max=1 << 15)}
    # Two tensors: of one that is given twice the export makes one input, and would take token ids from the mask.
    ids, mask = (torch.ones(2, 8, dtype=torch.long) for _ in range(2))
    torch.onnx.export(
        encoder,
        kwargs={"input_ids": ids, "attention_mask": mask},
        f=path,
        dynamic_shapes={"input_ids": dynamic, "attention_mask": dynamic},
        dynamo=True,
    )


def check_export(
    path: Path, encode: Callable[[Tensor, Tensor], Tensor], stock: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Refuse a file whose states are not those of transformers, for padded documents of unlike lengths."""
    lengths = torch.tensor([60, 37, 12, 5])
    mask = (torch.arange(60) < lengths[:, None]).long()
    ids = mask * torch.arange(1, 241).view(4, 60)
    with torch.inference_mode():
        apart = float((encode(ids, mask) - stock(ids, mask)).abs()[mask.bool()].max())
    if not apart <= TOLERANCE:
        raise SystemExit(
            f"{path} must give transformers' states to {TOLERANCE}, was {apart:.3g} apart; delete it and try again"
        )
