"""The course of a training run as one picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


def draw_curves(file: Path, history: Sequence[dict[str, Any]]) -> None:
    """Draw loss and learning rate over steps, and the scores on dev over epochs.

    Args:
        file: The picture to write; its suffix names the format.
        history: What the Trainer logged, in order (`state.log_history`).
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    steps, epochs = figure.subplots(1, 2)
    _draw_steps(steps, [entry for entry in history if "loss" in entry])
    _draw_epochs(epochs, [entry for entry in history if "eval_f1" in entry])
    figure.savefig(file, dpi=120)


def _draw_steps(axes: Axes, entries: Sequence[dict[str, Any]]) -> None:
    numbers = [entry["step"] for entry in entries]
    axes.plot(numbers, [entry["loss"] for entry in entries], color="tab:blue")
    axes.set(xlabel="step", yscale="log", title="Training")
    axes.set_ylabel("loss", color="tab:blue")
    rates = axes.twinx()
    rates.plot(numbers, [entry["learning_rate"] for entry in entries], color="tab:gray", linestyle="--")
    rates.set_ylabel("learning rate of the encoder", color="tab:gray")
    rates.set_ylim(bottom=0)
    rates.ticklabel_format(axis="y", scilimits=(0, 0))
    axes.grid(alpha=0.3)


def _draw_epochs(axes: Axes, entries: Sequence[dict[str, Any]]) -> None:
    numbers = [entry["epoch"] for entry in entries]
    for name, title in (("precision", "precision"), ("recall", "recall"), ("f1", "F1")):
        width = 2.5 if name == "f1" else 1.2
        axes.plot(numbers, [entry[f"eval_{name}"] for entry in entries], label=title, marker=".", linewidth=width)
    if entries:
        best = max(entries, key=lambda entry: float(entry["eval_f1"]))
        axes.plot(best["epoch"], best["eval_f1"], marker="o", markersize=10, fillstyle="none", color="black")
        axes.annotate(f"{best['eval_f1']:.3f}", (best["epoch"], best["eval_f1"]), (0, 8), textcoords="offset points")
    axes.set(xlabel="epoch", title="Dev", ylim=(0, 1.1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
