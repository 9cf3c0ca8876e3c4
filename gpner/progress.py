"""What a run shows while it trains: a bar on a terminal, a line an evaluation, a log file and TensorBoard."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import TensorBoardCallback

logger = logging.getLogger(__name__)


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # its name in logging
        """Be silent: a disk that is full ends the run at its next checkpoint, with one line of its own."""


@contextmanager
def run_log(file: Path) -> Iterator[None]:
    """Append what gpner logs to a file, from INFO on; a resumed run continues the file of the first."""
    package = logging.getLogger("gpner")
    handler = _LogFile(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.setLevel(level)
        package.removeHandler(handler)
        handler.close()


@contextmanager
def watchers(folder: Path, figures: Mapping[str, str], step: int) -> Iterator[list[TrainerCallback]]:
    """Give the callbacks that show a run and log it for TensorBoard; they end with the context, however training did.

    Args:
        folder: The run's folder.
        figures: What is shown of an evaluation, see `TrainingProgress`.
        step: Where the run continues; what TensorBoard holds of later steps is void.
    """
    writer = SummaryWriter(folder / "tensorboard", purge_step=step + 1)
    progress = TrainingProgress(figures)
    try:
        yield [TensorBoardCallback(writer), progress]
    finally:
        progress.stop()
        writer.close()


class TrainingProgress(TrainerCallback):
    """Shows steps and figures on standard error, and writes every logged figure to the run's log.

    Args:
        figures: What the line of an evaluation says after the loss: texts with a place for the figure, by the name
            that the Trainer logs it under. The bar shows the last of them.
    """

    def __init__(self, figures: Mapping[str, str]) -> None:
        self.console = Console(stderr=True, soft_wrap=True, highlight=False)
        self.figures = figures
        self.logged: dict[str, Any] = {}
        self.bar: Progress | None = None
        self.task = TaskID(0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the bar, at the step that a resumed run continues from."""
        logger.info(
            "training from step %d to %d on %d process(es)", state.global_step, state.max_steps, args.world_size
        )
        if not self.console.is_terminal:
            return
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self.bar = Progress(*columns, console=self.console, transient=True)
        self.task = self.bar.add_task(self._figures(0.0), total=state.max_steps, completed=state.global_step)
        self.bar.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update(self.task, completed=state.global_step, description=self._figures(state.epoch or 0.0))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the figures to the log; print the line of an evaluation."""
        logs = logs or {}
        self.logged.update(logs)
        figures = ", ".join(
            f"{name} {value:.4g}" for name, value in logs.items() if name != "epoch" and isinstance(value, float)
        )
        logger.info("step %d, epoch %.2f: %s", state.global_step, state.epoch or 0.0, figures)
        if logs.keys() & self.figures.keys():
            epochs = f"epoch {state.epoch or 0.0:.4g} of {args.num_train_epochs:.4g}"
            self.console.print(f"{epochs}: {', '.join(self._known({'loss': 'loss {:.4g}', **self.figures}))}")

    def stop(self) -> None:
        """Take the bar off the screen, however training ended."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _figures(self, epoch: float) -> str:
        last = list(self.figures)[-1]
        return "  ".join([f"epoch {epoch:.2f}", *self._known({"loss": "loss {:.3f}", last: self.figures[last]})])

    def _known(self, figures: Mapping[str, str]) -> list[str]:
        return [text.format(self.logged[name]) for name, text in figures.items() if name in self.logged]
