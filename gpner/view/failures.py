"""Documents that have no result, counted by the reason."""

from collections import Counter
from pathlib import Path
from typing import Any

from gpner.errors import DataError
from gpner.report.page import shortened
from gpner.view.problems import Problems, read_objects

MOST_REASONS = 100
OTHER_REASONS = "(other reasons)"


def count_failures(file: Path, problems: Problems) -> dict[str, Any]:
    """Count the lines of a file of failures by the type of their reason, as the page has them.

    Args:
        file: The file.
        problems: Where lines go that are no failures.

    Returns:
        `total`, and `reasons`: of each type its count, and id and message of the first, most frequent first.
    """
    counts: Counter[str] = Counter()
    firsts: dict[str, tuple[str | None, str]] = {}
    for number, row in read_objects(file, problems):
        with problems.of(file, number):
            kind, identity, message = _read(row)
            if kind not in firsts and len(firsts) >= MOST_REASONS:
                kind = OTHER_REASONS
            counts[kind] += 1
            firsts.setdefault(kind, (identity, message))
    reasons = [(kind, count, *firsts[kind]) for kind, count in counts.most_common()]
    return {"total": counts.total(), "reasons": reasons}


def _read(row: dict[str, Any]) -> tuple[str, str | None, str]:
    reason, identity = row.get("reason"), row.get("id")
    if not isinstance(reason, dict):
        raise DataError("a failure must have a reason with type and message, had none")
    kind, message = shortened(str(reason.get("type"))), shortened(str(reason.get("message")))
    return kind, None if identity is None else shortened(str(identity)), message
