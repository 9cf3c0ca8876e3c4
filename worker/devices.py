"""One process, one GPU: a worker claims a free one by locking a file named after its UUID.

The workers of a host share the folder of these files (a volume, when they run in containers). The kernel frees a lock
when its process dies, however it dies, so nothing has to be cleaned up after a `kill -9`. The claim sets
`CUDA_VISIBLE_DEVICES` and so must come before anything imports torch.
"""

import fcntl
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gpner.errors import ServiceError
from worker.settings import Settings

logger = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
# Seconds; the tool needs several on a host whose driver is not loaded yet.
LIST_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as `nvidia-smi` lists it."""

    uuid: str
    index: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A GPU that this process holds for as long as `lock` stays open."""

    uuid: str
    lock: IO[str]


def claim_device(settings: Settings) -> Claim | None:
    """Claim the GPU that this process will run on and hide all others from it; None means the CPU.

    Raises:
        ServiceError: If there are GPUs and none is free, or if one was demanded and there is none.
    """
    gpus = [] if settings.device == "cpu" else visible_gpus(list_gpus(), os.environ.get(VISIBLE))
    if not gpus:
        if settings.device == "cuda":
            raise ServiceError("GPNER_DEVICE=cuda needs a GPU, nvidia-smi shows none here; use auto or cpu")
        os.environ[VISIBLE] = ""  # torch may see a GPU that could not be claimed here, and others may have claimed it
        return None
    claim = claim_gpu([gpu.uuid for gpu in gpus], Path(settings.gpu_lock_folder))
    os.environ[VISIBLE] = claim.uuid
    return claim


def list_gpus() -> list[Gpu]:
    """Ask `nvidia-smi` for this host's GPUs; none where the tool or its driver is missing."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, "--query-gpu=uuid,index", "--format=csv,noheader"]
    try:
        # The command is a constant; only its folder came from PATH.
        answer = subprocess.run(command, capture_output=True, text=True, timeout=LIST_TIMEOUT_SECONDS, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("nvidia-smi is here but does not answer, so no GPU is used: %s", error)
        return []
    return parse_gpus(answer.stdout)


def parse_gpus(listing: str) -> list[Gpu]:
    """Read lines of `uuid, index`."""
    rows = [line.split(",") for line in listing.splitlines() if line.startswith("GPU-")]
    return [Gpu(uuid.strip(), index.strip()) for uuid, index in rows]


def visible_gpus(gpus: Sequence[Gpu], visible: str | None) -> list[Gpu]:
    """Keep the GPUs that `CUDA_VISIBLE_DEVICES`, where the operator has set it, names by index or by UUID."""
    if visible is None:
        return list(gpus)
    names = [name.strip() for name in visible.split(",")]
    return [gpu for gpu in gpus if gpu.index in names or gpu.uuid in names]


def claim_gpu(uuids: Sequence[str], folder: Path) -> Claim:
    """Lock the first GPU that no other process holds.

    Raises:
        ServiceError: If all are held, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for uuid in uuids:
            if lock := _lock(folder / f"{uuid}.lock"):
                return Claim(uuid, lock)
    except OSError as error:
        raise ServiceError(
            f"the folder for GPU locks must be writable, {folder} is not ({error.strerror}); set GPNER_GPU_LOCK_FOLDER"
        ) from error
    raise ServiceError(
        f"a worker needs a GPU of its own, all {len(uuids)} here are held by other workers (locks in {folder}); "
        "start fewer workers, or set GPNER_DEVICE=cpu"
    )


def device_memory_bytes() -> int:
    """Memory that this process holds on its device: on a GPU what torch has reserved, on the CPU the resident set."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)  # torch may be half imported yet
    if cuda is not None and getattr(cuda, "is_initialized", bool)():
        return int(cuda.memory_reserved())
    resident_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return resident_pages * os.sysconf("SC_PAGE_SIZE")


def _lock(path: Path) -> IO[str] | None:
    file = path.open("a", encoding="ascii")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
