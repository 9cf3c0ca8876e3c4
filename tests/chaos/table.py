"""What the runs came to: one row for each fault."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import attrgetter

from rich.table import Table

from tests.chaos.scenario import Run

# What is summed over runs; the counts are explained in `Run` and `Audit`.
COLUMNS: dict[str, Callable[[Run], float]] = {
    "runs": lambda _: 1,
    "faults": attrgetter("faults"),
    "workers replaced": attrgetter("replaced"),
    "documents": attrgetter("audit.documents"),
    "done": attrgetter("audit.done"),
    "failed": attrgetter("audit.failed"),
    "lost": attrgetter("audit.lost"),
    "twice": attrgetter("audit.twice"),
    "calls": attrgetter("audit.calls"),
    "calls lost": attrgetter("audit.calls_lost"),
    "seconds": lambda run: round(run.seconds),
}


@dataclass
class Row:
    """All runs of one fault, or why there was none."""

    fault: str
    runs: list[Run] = field(default_factory=list)
    not_tried: str | None = None


def _sums(runs: Iterable[Run]) -> dict[str, float]:
    runs = list(runs)
    return {title: sum(map(count, runs)) for title, count in COLUMNS.items()}


def table(rows: Iterable[Row]) -> Table:
    """The rows and their sum, for a terminal."""
    rows = list(rows)
    shown = Table("fault", show_footer=True)
    shown.columns[0].footer = "all"
    for title, total in _sums(run for row in rows for run in row.runs).items():
        shown.add_column(title, justify="right", footer=f"{total:,}")
    for row in rows:
        if row.not_tried:
            shown.add_row(f"{row.fault}: not tried, {row.not_tried}")
        else:
            shown.add_row(row.fault, *(f"{total:,}" for total in _sums(row.runs).values()))
    return shown


def as_json(rows: Iterable[Row], seed: int) -> dict[str, object]:
    """The same for programs."""
    return {
        "seed": seed,
        "rows": [{"fault": row.fault, **_sums(row.runs), "not_tried": row.not_tried} for row in rows],
    }
