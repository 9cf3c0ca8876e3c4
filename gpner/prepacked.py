"""Linear layers for inference on the CPU: weights laid out once, activations computed where the product is.

`torch.nn.Linear` gives oneDNN its weights row by row, to be laid out anew in every call, and reads what it wrote once
more for the activation. torch's own compiler does neither: these are the operators that it puts in their place, without
its need for a C++ compiler where a model runs.

In int8 products take half the time of those in bf16. Every token has a scale of its own, found when it comes: nothing
is to be calibrated, and a document's answer stays the same whatever it is batched with.
"""

from typing import cast

import torch
from torch import Tensor, nn
from transformers.activations import GELUActivation

# Where the encoders of transformers keep a linear layer and the activation that follows it.
FOLLOWED_BY = (("dense", "intermediate_act_fn"), ("ffn", "activation"))
LARGEST_WEIGHT = 127
# One less than int8 holds: a quotient in bf16 may be rounded upwards.
LARGEST_STATE = 126
# oneDNN multiplies signed activations thousands of times slower than unsigned ones, which have their zero here.
ZERO_POINT = 128
# Of a row; larger than 0, by which nothing can be divided.
LEAST_MAXIMUM = 1e-6


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


class Int8Linear(nn.Module):
    """A linear layer that multiplies in int8, and GELU (in its exact form) if one follows.

    Weights have one scale for each output, activations one for each token.

    Args:
        linear: The layer, in bf16 or fp32 on a CPU for which `multiplies_int8` is true; its weights are copied.
        gelu: Whether GELU is applied to what it returns.
    """

    def __init__(self, linear: nn.Linear, *, gelu: bool) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        self.weight_scale = weight.abs().amax(1).clamp_min(LEAST_MAXIMUM) / LARGEST_WEIGHT
        integers = (weight / self.weight_scale[:, None]).round().to(torch.int8)
        self.weight: Tensor = torch.ops.onednn.qlinear_prepack(integers, None)
        self.weight_zero_point = torch.zeros(linear.out_features, dtype=torch.int32)
        bias = linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias
        self.bias = bias.detach()
        self.gelu = gelu

    def forward(self, states: Tensor) -> Tensor:
        """Multiply. Shapes: (..., inner) and (..., outer)."""
        rows = states.reshape(-1, states.shape[-1])
        scale = rows.abs().amax(1, keepdim=True).clamp_min_(LEAST_MAXIMUM).div_(LARGEST_STATE)
        signed = (rows / scale).round_().to(torch.int8)
        unsigned = signed.view(torch.uint8).bitwise_xor_(ZERO_POINT)  # which adds it; torch converts to uint8 slowly
        product = torch.ops.onednn.qlinear_pointwise(
            unsigned,
            1.0,  # x_scale: each row has its own, applied below
            ZERO_POINT,
            self.weight,
            self.weight_scale,
            self.weight_zero_point,
            None,  # bias
            1.0,  # output_scale
            0,  # output_zero_point
            states.dtype,
            "none",
            [],
            "none",
        )
        result = torch.addcmul(self.bias, product, scale)
        if self.gelu:
            result = nn.functional.gelu(result)
        return result.view(*states.shape[:-1], -1)


def multiplies_int8() -> bool:
    """Say whether this CPU multiplies and adds int8 exactly; without instructions for it, oneDNN's sums saturate."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_vnni") or capabilities.get("amx_int8"))


def prepack_linears(encoder: nn.Module, kind: type[PrepackedLinear] | type[Int8Linear] = PrepackedLinear) -> None:
    """Replace the linear layers of an encoder on the CPU by those of a kind. It can no longer be trained."""
    for module in list(encoder.modules()):
        for linear, activation in FOLLOWED_BY:
            if type(getattr(module, activation, None)) is GELUActivation:
                setattr(module, linear, kind(getattr(module, linear), gelu=True))
                setattr(module, activation, nn.Identity())
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, kind(child, gelu=False))
