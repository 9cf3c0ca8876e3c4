"""The dashboards as files, and the queries in them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "ops/grafana/dashboards"


def load(name: str) -> dict[str, Any]:
    """A dashboard by the name of its file."""
    found: dict[str, Any] = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return found


def names() -> list[str]:
    """The files."""
    return sorted(path.name for path in FOLDER.glob("*.json"))


def queries(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every query with the title of its panel or annotation, and its variables as they are written."""
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def filled_in(expression: str, **values: str) -> str:
    """A query with Grafana's variables replaced, as Grafana does it before it asks."""
    for name, value in sorted(values.items(), key=lambda pair: -len(pair[0])):
        expression = expression.replace(f"${name}", value)
    return expression
