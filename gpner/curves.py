"""The course of a run as one picture: how the loss fell, and what each evaluation said."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# What the Trainer logged, in order (`state.log_history`).
History = Sequence[dict[str, Any]]


def draw_curves(file: Path, history: History, draw_evaluations: Callable[[Axes, History], None]) -> None:
    """Draw loss and learning rate over steps, and evaluations over epochs.

    Args:
        file: The picture to write; its suffix names the format.
        history: The course of the run.
        draw_evaluations: `draw_scores` or `draw_perplexity`.
    """
    figure = Figure(figsize=(11, 4), layout="constrained")
    steps, epochs = figure.subplots(1, 2)
    _draw_steps(steps, [entry for entry in history if "loss" in entry])
    draw_evaluations(epochs, history)
    epochs.set(xlabel="epoch")
    epochs.xaxis.set_major_locator(MaxNLocator(integer=True))
    epochs.grid(alpha=0.3)
    figure.savefig(file, dpi=120)


def draw_scores(axes: Axes, history: History) -> None:
    """Draw precision, recall and F1 on dev, the best epoch marked."""
    entries = [entry for entry in history if "eval_f1" in entry]
    numbers = [entry["epoch"] for entry in entries]
    for name, title in (("precision", "precision"), ("recall", "recall"), ("f1", "F1")):
        width = 2.5 if name == "f1" else 1.2
        axes.plot(numbers, [entry[f"eval_{name}"] for entry in entries], label=title, marker=".", linewidth=width)
    if entries:
        best = max(entries, key=lambda entry: float(entry["eval_f1"]))
        axes.plot(best["epoch"], best["eval_f1"], marker="o", markersize=10, fillstyle="none", color="black")
        axes.annotate(f"{best['eval_f1']:.3f}", (best["epoch"], best["eval_f1"]), (0, 8), textcoords="offset points")
    axes.set(title="Dev", ylim=(0, 1.1))
    axes.legend(loc="lower right")


def draw_perplexity(axes: Axes, history: History) -> None:
    """Draw the perplexity of held-out texts, and apart for near and far positions where there are both."""
    for name, title in (("", "all positions"), ("_short", "positions 0-511"), ("_long", "positions from 512 on")):
        entries = [entry for entry in history if f"eval_perplexity{name}" in entry]
        if entries and (not name or "eval_perplexity_long" in entries[-1]):
            values = [entry[f"eval_perplexity{name}"] for entry in entries]
            axes.plot([entry["epoch"] for entry in entries], values, label=title, marker=".")
    axes.set(title="Held-out texts", ylabel="perplexity", yscale="log")
    axes.legend(loc="upper right")


def _draw_steps(axes: Axes, entries: History) -> None:
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
