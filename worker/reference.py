"""What the documentation says that the code knows: `python -m worker.reference docs` writes it there.

The wire as JSON Schema, for programs in other languages, and the tables of settings and metrics in docs/operations.md.
A test fails where they differ from the code.
"""

import json
import re
import sys
import tempfile
from pathlib import Path

from worker.metrics import Metrics, queue_families
from worker.protocol import Document
from worker.results import Answer, DeadLetter
from worker.settings import ENV_PREFIX, Settings


def schemas() -> dict[str, str]:
    """The published schemas, name to content."""
    published = {
        "document.json": Document.model_json_schema(),
        "result.json": {"title": "gpner result or failure, version 1"} | Answer.json_schema(mode="serialization"),
        "dead-letter.json": DeadLetter.model_json_schema(),
    }
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {name: json.dumps(dialect | schema, indent=2) + "\n" for name, schema in published.items()}


def settings_table() -> str:
    """Every setting, its default and its meaning, as Markdown."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, setting in Settings.model_fields.items():
        default = str(setting.default).replace(tempfile.gettempdir(), "$TMPDIR")
        default = f"`{default}`" if default else "(unset)"
        rows.append(f"| `{ENV_PREFIX}{name.upper()}` | {default} | {setting.description} |")
    return "\n".join(rows)


def metrics_table() -> str:
    """Every metric, its kind and its meaning, as Markdown."""
    rows = ["| metric | kind | meaning |", "|---|---|---|"]
    for metric in (*Metrics().registry.collect(), *queue_families()):
        name = metric.name + {"counter": "_total", "info": "_info"}.get(metric.type, "")
        rows.append(f"| `{name}` | {metric.type} | {metric.documentation} |")
    return "\n".join(rows)


def write_reference(docs: Path) -> None:
    """Write the schemas, and fill the tables between their marks in `operations.md`."""
    (docs / "schemas").mkdir(parents=True, exist_ok=True)
    for name, content in schemas().items():
        (docs / "schemas" / name).write_text(content, encoding="utf-8")
    operations = docs / "operations.md"
    text = operations.read_text(encoding="utf-8")
    for mark, table in (("settings", settings_table()), ("metrics", metrics_table())):
        text = _filled(text, mark, table)
    operations.write_text(text, encoding="utf-8")


def _filled(text: str, mark: str, table: str) -> str:
    """The text with a table between its marks."""
    between = re.compile(rf"(<!-- {mark} -->\n).*(<!-- end of {mark} -->)", re.DOTALL)
    return between.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text)


if __name__ == "__main__":
    write_reference(Path(sys.argv[1]))
