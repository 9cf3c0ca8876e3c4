"""What a device can do at best."""

import torch
from torch.utils.benchmark import Timer

from gpner import peak
from gpner.peak import measure_peak_flops


def test_the_peak_is_what_one_product_of_large_matrices_took() -> None:
    device, size = torch.device("cpu"), peak.CPU_SIZE
    left, right = torch.rand(2, size, size)
    best = min(_seconds_of(left, right) for _ in range(5))

    measured = measure_peak_flops(device, torch.float32)

    assert 0.2 < measured / (2 * size**3 / best) < 5


def _seconds_of(left: torch.Tensor, right: torch.Tensor) -> float:
    profile = Timer("left @ right", globals={"left": left, "right": right})
    return float(profile.timeit(1).mean)
