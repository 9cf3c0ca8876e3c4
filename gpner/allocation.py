"""Memory of large tensors on the CPU, kept by the process from one use to the next."""

import ctypes

# From glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> None:
    """Have glibc keep what is freed, for the whole process; without glibc nothing is done.

    By default glibc maps every tensor of more than 32 MB anew, and many smaller ones, and the kernel fills each new
    page with zeros, which can take as long as what is computed in them. Call it once, in a program that runs a model,
    before the first forward. The process then holds on to the most that it ever needed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, LARGEST_INT)
