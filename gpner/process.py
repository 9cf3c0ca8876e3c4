"""What a process sets up before it loads torch, to run models at full speed and beside others."""

import ctypes
import os

# Rounds that a thread of OpenMP looks for work before it sleeps; the library's own are millions. Measured in
# docs/log.md: beside another busy process a forward took 1.9 s in place of 10, and alone as long as before.
SPIN_COUNT = 10_000
# From glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
LARGEST_INT = 2**31 - 1


def prepare_process() -> None:
    """Have threads that wait leave the core to others, and keep the memory of freed tensors.

    Call it once, in a program that runs a model, before torch is loaded. `GOMP_SPINCOUNT` and `OMP_WAIT_POLICY` of the
    environment win. The process then holds on to the most memory that it ever needed.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Have glibc keep what is freed, for the whole process; without glibc nothing is done.

    By default glibc maps every tensor of more than 32 MB anew, and many smaller ones, and the kernel fills each new
    page with zeros, which can take as long as what is computed in them.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, LARGEST_INT)
