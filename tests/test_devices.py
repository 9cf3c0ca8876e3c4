"""One GPU per process, by locks that the kernel frees. The processes are real, the GPUs are names."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from gpner.errors import ServiceError
from worker.devices import Gpu, claim_device, claim_gpu, device_memory_bytes, list_gpus, parse_gpus, visible_gpus
from worker.settings import Settings

GPUS = [Gpu("GPU-aaaa", "0"), Gpu("GPU-bbbb", "1"), Gpu("GPU-cccc", "2")]
UUIDS = [gpu.uuid for gpu in GPUS]
CLAIM = """
import sys
from pathlib import Path
from worker.devices import claim_gpu
claim = claim_gpu(sys.argv[2:], Path(sys.argv[1]))
print(claim.uuid, flush=True)
sys.stdin.read()
"""


class Claimant:
    """A process that claims a GPU and holds it until it is killed."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CLAIM, str(folder), *UUIDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def uuid(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()


@pytest.fixture(autouse=True)
def _claims_end_with_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim is written into this process's environment; a test that ends gives the old one back."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")


def test_processes_that_start_together_claim_different_gpus(tmp_path: Path) -> None:
    with ExitStack() as stack:
        claimants = [Claimant(tmp_path) for _ in UUIDS]
        for claimant in claimants:
            stack.callback(claimant.kill)

        claimed = [claimant.uuid() for claimant in claimants]

        assert sorted(claimed) == UUIDS
        with pytest.raises(ServiceError, match="all 3 here are held by other workers"):
            claim_gpu(UUIDS, tmp_path)


def test_a_killed_process_frees_its_gpu(tmp_path: Path) -> None:
    claimant = Claimant(tmp_path)
    uuid = claimant.uuid()

    claimant.kill()

    claim = claim_gpu([uuid], tmp_path)
    claim.lock.close()
    assert claim.uuid == uuid


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ServiceError, match="GPNER_GPU_LOCK_FOLDER"):
        claim_gpu(UUIDS, tmp_path / "file")


def test_the_listing_of_the_driver_is_read() -> None:
    assert parse_gpus("GPU-aaaa, 0\nGPU-bbbb, 1\nGPU-cccc, 2\n") == GPUS
    assert parse_gpus("No devices were found\n") == []


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, GPUS), ("1", GPUS[1:2]), ("2,0", [GPUS[0], GPUS[2]]), ("GPU-cccc", GPUS[2:]), ("", []), ("-1", [])],
)
def test_only_gpus_that_the_operator_left_visible_are_claimed(visible: str | None, expected: list[Gpu]) -> None:
    assert visible_gpus(GPUS, visible) == expected


def test_a_worker_for_the_cpu_looks_for_no_gpu(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "locks"

    claim = claim_device(settings.model_copy(update={"device": "cpu", "gpu_lock_folder": folder}))

    assert claim is None
    assert not folder.exists()


def test_demanding_a_gpu_where_there_is_none_says_so(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    with pytest.raises(ServiceError, match="needs a GPU, nvidia-smi shows none"):
        claim_device(settings.model_copy(update={"device": "cuda"}))


@pytest.mark.gpu
def test_a_claimed_gpu_is_the_only_one_that_this_process_sees(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not list_gpus():
        pytest.skip("no GPU")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    claim = claim_device(settings.model_copy(update={"gpu_lock_folder": tmp_path}))

    assert claim is not None
    assert os.environ["CUDA_VISIBLE_DEVICES"] == claim.uuid
    claim.lock.close()


def test_the_memory_of_this_process_is_measured() -> None:
    assert device_memory_bytes() > 10_000_000
