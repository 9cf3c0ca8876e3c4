"""Linear layers for inference in bf16 on the CPU: weights laid out once, activations computed where the product is.

`torch.nn.Linear` gives oneDNN its weights row by row, to be laid out anew in every call, and reads what it wrote once
more for the activation. torch's own compiler does neither: these are the operators that it puts in their place, without
its need for a C++ compiler where a model runs.
"""

from typing import cast

import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation

# Where the encoders of transformers keep a linear layer and the activation that follows it.
FOLLOWED_BY = (("dense", "intermediate_act_fn"), ("ffn", "activation"))


class PrepackedLinear(nn.Module):
    """A linear layer with frozen weights in oneDNN's layout, and GELU (in its exact form) if one follows.

    Args:
        linear: The layer, in bf16 on the CPU; its weights are copied.
        gelu: Whether GELU is applied to what it returns.
    """

    def __init__(self, linear: nn.Linear, *, gelu: bool) -> None:
        super().__init__()
        self.weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.activation = "gelu" if gelu else "none"

    def forward(self, states: Tensor) -> Tensor:
        """Multiply. Shapes: (..., inner) and (..., outer)."""
        product = torch.ops.mkldnn._linear_pointwise(states, self.weight, self.bias, self.activation, [], "none")
        return cast(Tensor, product)


def prepack_linears(encoder: nn.Module) -> None:
    """Replace the linear layers of an encoder, in bf16 on the CPU, by prepacked ones. It can no longer be trained."""
    for module in list(encoder.modules()):
        for linear, activation in FOLLOWED_BY:
            if type(getattr(module, activation, None)) is GELUActivation:
                setattr(module, linear, PrepackedLinear(getattr(module, linear), gelu=True))
                setattr(module, activation, nn.Identity())
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, PrepackedLinear(child, gelu=False))
