"""What commands write into docs/performance.md: all that stands between two marks is theirs."""

from collections.abc import Sequence
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def write(name: str, lines: Sequence[str]) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- end of name -->`."""
    path = DOCS / "performance.md"
    text, start, end = path.read_text(encoding="utf-8"), f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    if text.count(start) != 1 or text.count(end) != 1:
        raise SystemExit(f"{path} must have the marks {start.strip()} and {end.strip()} once each, has not")
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    path.write_text("".join([before, start, "\n".join(lines), "\n", end, after]), encoding="utf-8")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table in Markdown, and an empty one after it."""
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)] + [""]
