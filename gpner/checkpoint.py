"""Trained models on disk: one folder with configuration, safetensors and tokenizer, and clear words when it is not."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from gpner.config import GlobalPointerConfig
from gpner.errors import CheckpointError, ConfigError
from gpner.model import GlobalPointerForEntities, describe_mismatches
from gpner.model_folder import read_config

# Enough that no two models of a service share one.
REVISION_DIGITS = 12


def save_checkpoint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, path: Path) -> None:
    """Write a model or an encoder, its configuration and its tokenizer into one folder."""
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    for weights in path.glob("*.safetensors"):
        # That library writes for the owner alone, but who trains a model is seldom who serves it.
        weights.chmod((path / "config.json").stat().st_mode)


def load_checkpoint(path: str | Path) -> tuple[GlobalPointerForEntities, PreTrainedTokenizerFast]:
    """Load a trained model and its tokenizer from a local folder.

    Raises:
        CheckpointError: If the folder, its weights or its tokenizer are missing, or of another kind.
        ConfigError: If its configuration has unknown keys or values out of range.
        EncoderError: If the encoder in its configuration cannot be built.
    """
    folder = Path(path)
    config = _config(folder)
    if not (folder / "model.safetensors").is_file() and not (folder / "model.safetensors.index.json").is_file():
        raise CheckpointError(_no_weights(folder))
    try:
        loaded: Any = GlobalPointerForEntities.from_pretrained(
            folder, config=config, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"model.safetensors must hold the weights of its config.json, in {folder} it does not: {error}"
        ) from error
    model, report = loaded
    if report["mismatched_keys"]:  # the loading let them pass, so that we can name them
        raise CheckpointError(
            f"model.safetensors must hold the weights of its config.json, in {folder} {describe_mismatches(report)}"
        )
    wrong = sorted(report["missing_keys"]) + sorted(report["unexpected_keys"])
    if wrong:
        names = ", ".join(wrong[:5])
        raise CheckpointError(f"model.safetensors must hold exactly the model's weights, in {folder} differ: {names}")
    return model, load_tokenizer(folder)


def checkpoint_revision(path: str | Path) -> str:
    """Hash what decides a model's answers, its settings, tokenizer and weights: 12 hexadecimal digits.

    Raises:
        CheckpointError: If one of these files cannot be read.
    """
    folder = Path(path)
    files = (folder / "config.json", folder / "tokenizer.json", *sorted(folder.glob("*.safetensors")))
    return hash_files(files)[:REVISION_DIGITS]


def hash_files(files: Iterable[Path]) -> str:
    """Hash what files of a model hold, in their order, whatever their names.

    Raises:
        CheckpointError: If one of them cannot be read.
    """
    digest = hashlib.sha256()
    for file in files:
        try:
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        except OSError as error:
            raise CheckpointError(
                f"a model folder must hold {file.name}, in {file.parent} it cannot be read: {error.strerror}"
            ) from error
    return digest.hexdigest()


def _config(folder: Path) -> GlobalPointerConfig:
    try:
        return GlobalPointerConfig(**read_config(folder))
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise ConfigError(
            f"config.json must hold values of the right kind, in {folder} it does not: {error}"
        ) from error


def check_new(path: Path) -> None:
    """See that nothing lies where a command will write.

    Raises:
        ConfigError: If it is no folder, or one that holds anything.
    """
    try:
        is_empty = not path.exists() or next(path.iterdir(), None) is None
    except OSError as error:
        raise ConfigError(f"the output must be a folder that can be made, {path} cannot: {error.strerror}") from error
    if not is_empty:
        raise ConfigError(f"the output must be a new folder, {path} is not empty; name another")


def make_folder(path: Path) -> None:
    """Make a folder for what a command will write, before it does the work.

    Raises:
        ConfigError: If it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the output must be a folder that can be made, {path} cannot: {error.strerror}") from error


def merge_adapter(encoder: str | Path, adapter: str | Path, output: Path) -> None:
    """Fold low-rank adapters and their head into an encoder, and save the ordinary checkpoint that results.

    Args:
        encoder: Local folder or hub name of the encoder that the adapters were trained on.
        adapter: The folder `adapter` of a training run.
        output: Folder for the checkpoint.

    Raises:
        CheckpointError: If one of the two cannot be loaded.
    """
    from peft import PeftModel

    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (Path(adapter) / name).is_file():
            raise CheckpointError(f"an adapter must hold {name}, {adapter} does not; give a run's folder `adapter`")
    options = read_config(Path(adapter))
    options.pop("encoder_config")
    model = GlobalPointerForEntities.from_encoder(encoder, **options)
    merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    save_checkpoint(merged, load_tokenizer(encoder), output)


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer; only those report character offsets.

    Raises:
        CheckpointError: If there is none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, use_fast=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"a model must have its tokenizer beside it, {source} has none: {error}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        kind = type(tokenizer).__name__
        raise CheckpointError(f"the tokenizer must be a fast one with character offsets, {source} has: {kind}")
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes of a folder without its files
        raise CheckpointError(f"a model must have its tokenizer beside it, {source} has none: only special tokens")
    return tokenizer


def _no_weights(folder: Path) -> str:
    pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.pkl") for file in folder.glob(pattern))
    if pickles:
        return (
            f"weights must be safetensors, {folder} has a pickle: {pickles[0]}; pickles run code when loaded and are "
            "never read: save the model again with save_pretrained"
        )
    return f"a model folder must hold model.safetensors, {folder} does not; copy the whole folder that training wrote"
