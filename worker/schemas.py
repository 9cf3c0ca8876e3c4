"""The wire as JSON Schema, for programs in other languages: `python -m worker.schemas docs/schemas` writes it."""

import json
import sys
from pathlib import Path

from worker.protocol import Document
from worker.results import Answer, DeadLetter


def schemas() -> dict[str, str]:
    """The published files, name to content."""
    published = {
        "document.json": Document.model_json_schema(),
        "result.json": {"title": "gpner result or failure, version 1"} | Answer.json_schema(mode="serialization"),
        "dead-letter.json": DeadLetter.model_json_schema(),
    }
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {name: json.dumps(dialect | schema, indent=2) + "\n" for name, schema in published.items()}


def write_schemas(folder: Path) -> None:
    """Write the files into a folder, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in schemas().items():
        (folder / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]))
