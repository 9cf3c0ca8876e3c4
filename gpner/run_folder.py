"""The folder of a training run: whose it is, which of its checkpoints are whole, and how the result gets into it.

A run may be killed at any moment and its disk may fill up. So a checkpoint counts only once it is marked, nothing is
deleted before its successor is marked, and the result is written aside and moved into place when all of it is written.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gpner.checkpoint import check_new, hash_files, make_folder
from gpner.errors import ConfigError, GpnerError, TrainingError
from gpner.pretraining_options import PretrainingOptions
from gpner.training_options import TrainingOptions

# What the run was started with; its presence makes a folder that of a run.
OPTIONS = "options.json"
# Written last; its presence means that the run is finished.
METRICS = "metrics.json"
# Marks a checkpoint that is whole.
COMPLETE = "complete"
# Where the Trainer leaves its history in a checkpoint.
TRAINER_STATE = "trainer_state.json"
# Options that name what a run may read again when it continues, and the files that matter of a folder they name.
SOURCES = ("encoder", "config", "tokenizer")
SOURCE_SUFFIXES = (".json", ".model", ".safetensors", ".txt")


class RunFolder:
    """The output folder of one run.

    Attributes:
        path: The folder.
        checkpoints: Where the epochs' checkpoints lie while the run is not finished.
        is_new: Whether the run began here and now, in a folder that held nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.is_new = False

    def claim(self, settings: dict[str, Any], *, resume: bool) -> None:
        """Make the folder this run's own, or see that it is this very run that shall continue.

        Args:
            settings: All that the run's result depends on.
            resume: Whether a run that the folder holds shall continue.

        Raises:
            ConfigError: If the folder holds anything but a run that shall continue, or cannot be made.
        """
        make_folder(self.path)
        if (self.path / METRICS).exists():
            raise ConfigError(
                f"the output must be a new folder, {self.path} holds a finished run; score it with `gpner evaluate`, "
                "name another folder, or delete this one to train again"
            )
        if (self.path / OPTIONS).exists():
            self._check(settings, resume)
        else:
            check_new(self.path)
            write_text(self.path / OPTIONS, json.dumps(settings, indent=2) + "\n")
            self.is_new = True

    def _check(self, settings: dict[str, Any], resume: bool) -> None:
        if not resume:
            raise ConfigError(
                f"the output must be a new folder, {self.path} holds an unfinished run; continue it with --resume, "
                "name another folder, or delete this one"
            )
        started = json.loads((self.path / OPTIONS).read_text(encoding="utf-8"))
        names = [name for name in {**started, **settings} if started.get(name) != settings.get(name)]
        if names:
            changes = ", ".join(f"{name} was {started.get(name)}, is {settings.get(name)}" for name in names)
            raise ConfigError(
                f"a run must continue with what it was started with, in {self.path} differ: {changes}; give the same "
                "flags and files again, or start anew in another folder"
            )

    def last_checkpoint(self) -> Path | None:
        """The checkpoint of the last epoch that is whole, if there is one."""
        whole = [file.parent for file in self.checkpoints.glob(f"checkpoint-*/{COMPLETE}")]
        return max(whole, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)

    def last_state(self) -> TrainerState:
        """How far the Trainer had come at the last checkpoint; a new state if there is none."""
        last = self.last_checkpoint()
        return TrainerState.load_from_json(str(last / TRAINER_STATE)) if last else TrainerState()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Turn what a full disk makes of saving into one clear error, and leave no run behind that never began.

        Raises:
            TrainingError: If something could not be written.
        """
        try:
            yield
        except GpnerError as error:
            # The command as it should have been must find the folder as this one found it.
            has_trained = self.last_checkpoint() or (self.path / METRICS).exists() or isinstance(error, TrainingError)
            if self.is_new and not has_trained:
                self._clear()
            raise
        except (OSError, SafetensorError, RuntimeError) as error:
            # torch reports a failed write as RuntimeError, with nothing but its file of C++ to tell it from others.
            if isinstance(error, RuntimeError) and "inline_container.cc" not in str(error):
                raise
            last = self.last_checkpoint()
            kept = f"what is whole stays in {last}" if last else "no epoch is saved yet"
            raise TrainingError(
                f"checkpoints must be written to {self.path}, they could not be: {error}; {kept}: free some space and "
                "run the command again with --resume"
            ) from error

    def _clear(self) -> None:
        for held in self.path.iterdir():
            if held.is_dir():
                shutil.rmtree(held)
            else:
                held.unlink()

    @contextmanager
    def result(self) -> Iterator[Path]:
        """Give a folder to write the result to, as `written_aside`.

        `metrics.json` ends the run; the checkpoints, which nobody needs any more, go with it.
        """
        with written_aside(self.path) as aside:
            yield aside
        shutil.rmtree(self.checkpoints, ignore_errors=True)


class KeepCheckpoints(TrainerCallback):
    """Marks each checkpoint once it is whole, and only then deletes those that are neither the last nor the best."""

    def __init__(self, folder: RunFolder) -> None:
        self.checkpoints = folder.checkpoints

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Find the best checkpoint of a resumed run, whose folder may have been moved since."""
        if state.best_global_step:
            state.best_model_checkpoint = str(self.checkpoints / f"checkpoint-{state.best_global_step}")

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        """Mark the checkpoint, delete others.

        Raises:
            TrainingError: If its weights are no numbers any more; it stays unmarked.
        """
        # A gradient that is not finite would show in the loss of the next step, which a run's last step has not.
        if not all(bool(weight.isfinite().all()) for weight in model.parameters()):
            raise TrainingError(
                f"weights must be finite numbers, after step {state.global_step} they are not; lower the learning "
                "rate, and start anew in another folder"
            )
        if args.world_size > 1:
            torch.distributed.barrier()  # every process adds the state of its random numbers
        if not state.is_world_process_zero:
            return
        last = self.checkpoints / f"checkpoint-{state.global_step}"
        (last / COMPLETE).touch()
        kept = {last, self.checkpoints / f"checkpoint-{state.best_global_step}"}
        for folder in self.checkpoints.glob("checkpoint-*"):
            if folder not in kept:
                (folder / COMPLETE).unlink(missing_ok=True)
                shutil.rmtree(folder)


def run_settings(
    options: TrainingOptions | PretrainingOptions, contents: dict[str, Any], processes: int
) -> dict[str, Any]:
    """Collect all that a run's result depends on, ready for JSON; where its folder lies does not count.

    Args:
        options: What the run was started with.
        contents: What was read, by the option that names its files.
        processes: How many train together.
    """
    chosen = {name: value for name, value in asdict(options).items() if name not in ("output", "resume")}
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in chosen.items()}
    hashes = {
        f"content of {name}": hashlib.sha256(repr(content).encode()).hexdigest() for name, content in contents.items()
    }
    sources = {name: Path(chosen[name]) for name in SOURCES if chosen.get(name)}
    hashes |= {f"content of {name}": _hash_source(source) for name, source in sources.items() if source.exists()}
    return {**settings, **hashes, "processes": processes}


def _hash_source(source: Path) -> str:
    if source.is_file():
        return hash_files([source])
    return hash_files(sorted(file for file in source.iterdir() if file.is_file() and file.suffix in SOURCE_SUFFIXES))


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """Give a folder to write to; if all went well its files are moved into `folder`, `metrics.json` last.

    If not, nothing is left of them.
    """
    aside = folder / "unfinished"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        for file in sorted(aside.iterdir(), key=lambda file: file.name == METRICS):
            if (folder / file.name).is_dir():
                shutil.rmtree(folder / file.name)
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_text(file: Path, content: str) -> None:
    """Write a file that is there whole or not at all.

    Raises:
        OSError: If it could not be written; nothing is left of it.
    """
    aside = file.with_name(file.name + ".unfinished")
    try:
        aside.write_text(content, encoding="utf-8")
        aside.replace(file)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
