"""Our own format: `{"id", "text", "entities": [[start, end, label], ...]}`, one example a line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpner.errors import DataError
from gpner.formats.lines import kind, read_objects
from gpner.formats.raw import Place, Problem, RawEntity, RawExample


def read(path: Path) -> Iterator[RawExample | Problem]:
    """Read a JSONL file, plain or .gz.

    An entity is `[start, end, label]` or an object with these keys. Without an id the line's number is taken. Other
    keys are left alone.
    """
    return read_objects(path, _parse)


def _parse(row: dict[str, Any], place: Place) -> Iterator[RawExample | Problem]:
    for key in ("text", "entities"):
        if key not in row:
            raise DataError(f"an example must have the keys 'text' and 'entities', was without: {key!r}")
    if not isinstance(row["entities"], list):
        raise DataError(f"'entities' must be a list, was: {kind(row['entities'])}")
    entities = []
    for item in row["entities"]:
        if isinstance(item, dict) and {"start", "end", "label"} <= item.keys():
            entities.append(RawEntity(place, item["start"], item["end"], item["label"]))
        elif isinstance(item, list) and len(item) == 3:
            entities.append(RawEntity(place, *item))
        else:
            form = "[start, end, label] or an object with these keys"
            yield place.problem(f"an entity must be {form}, was: {json.dumps(item)[:80]}; left out")
    yield RawExample(place, row.get("id", place.line), row["text"], entities)
