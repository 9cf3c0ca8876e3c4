"""What a run shows while it trains: a progress bar on a terminal, a line an epoch elsewhere, and a log file."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
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


class TrainingProgress(TrainerCallback):
    """Shows steps, loss and the last F1 on standard error, and writes every logged figure to the run's log."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, soft_wrap=True, highlight=False)
        self.loss = self.f1 = float("nan")
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
        """Write the figures to the log; at the end of an epoch, print its line."""
        logs = logs or {}
        self.loss, self.f1 = logs.get("loss", self.loss), logs.get("eval_f1", self.f1)
        figures = ", ".join(
            f"{name} {value:.4g}" for name, value in logs.items() if name != "epoch" and isinstance(value, float)
        )
        logger.info("step %d, epoch %.2f: %s", state.global_step, state.epoch or 0.0, figures)
        if "eval_f1" in logs:
            precision, recall = logs["eval_precision"], logs["eval_recall"]
            self.console.print(
                f"epoch {state.epoch:.4g} of {args.num_train_epochs:.4g}: loss {self.loss:.4g}, "
                f"dev precision {precision:.3f}, recall {recall:.3f}, F1 {self.f1:.3f}"
            )

    def stop(self) -> None:
        """Take the bar off the screen, however training ended."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _figures(self, epoch: float) -> str:
        known = [f"{name} {value:.3f}" for name, value in (("loss", self.loss), ("F1", self.f1)) if value == value]
        return "  ".join([f"epoch {epoch:.2f}", *known])
