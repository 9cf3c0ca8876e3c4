"""What the runs came to: one row for each fault."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from rich.table import Table

from tests.chaos.scenario import Run


@dataclass
class Row:
    """All runs of one fault, or why there was none. Counts are as in `Run` and `Audit`."""

    fault: str
    runs: int = 0
    faults: int = 0
    replaced: int = 0
    documents: int = 0
    done: int = 0
    failed: int = 0
    lost: int = 0
    twice: int = 0
    calls: int = 0
    calls_lost: int = 0
    seconds: float = 0.0
    not_tried: str | None = None

    def add(self, run: Run) -> None:
        """Count one run more."""
        self.runs += 1
        self.faults += run.faults
        self.replaced += run.replaced
        self.documents += run.audit.documents
        self.done += run.audit.done
        self.failed += run.audit.failed
        self.lost += run.audit.lost
        self.twice += run.audit.twice
        self.calls += run.audit.calls
        self.calls_lost += run.audit.calls_lost
        self.seconds = round(self.seconds + run.seconds, 1)


COUNTS = {
    "runs": "runs",
    "faults": "faults",
    "replaced": "workers replaced",
    "documents": "documents",
    "done": "done",
    "failed": "failed",
    "lost": "lost",
    "twice": "twice",
    "calls": "calls",
    "calls_lost": "calls lost",
    "seconds": "seconds",
}


def table(rows: Iterable[Row]) -> Table:
    """The rows and their sum, for a terminal."""
    rows = list(rows)
    shown = Table("fault", show_footer=True)
    shown.columns[0].footer = "all"
    for name, title in COUNTS.items():
        total = sum(getattr(row, name) for row in rows)
        shown.add_column(title, justify="right", footer=f"{round(total):,}")
    for row in rows:
        if row.not_tried:
            shown.add_row(f"{row.fault}: not tried, {row.not_tried}")
        else:
            shown.add_row(row.fault, *(f"{getattr(row, name):,}" for name in COUNTS))
    return shown


def as_json(rows: Iterable[Row], seed: int) -> dict[str, object]:
    """The same for programs."""
    return {"seed": seed, "rows": [asdict(row) for row in rows]}
