"""What a device can do at best, to hold against what a model makes of it."""

import time

import torch

# Large enough that nothing but arithmetic counts: a millisecond on a large GPU, 20 ms on two cores.
GPU_SIZE = 8192
CPU_SIZE = 2048
REPEATS = 5


def measure_peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Time products of two large square matrices; return the best, in floating-point operations a second.

    Other work on the device makes the answer smaller.
    """
    size = GPU_SIZE if device.type == "cuda" else CPU_SIZE
    left, right = torch.rand(2, size, size, device=device).to(dtype)
    return 2 * size**3 / min(_seconds(left, right) for _ in range(REPEATS))


def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    _wait_for(left.device)
    started = time.perf_counter()
    torch.matmul(left, right)
    _wait_for(left.device)
    return time.perf_counter() - started


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
