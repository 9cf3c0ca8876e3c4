"""CLUENER2020's format: `{"text", "label": {label: {surface: [[first, last], ...]}}}`, one example a line.

Both offsets are included there. The quoted surface is checked against the text.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpner.errors import DataError
from gpner.formats.lines import kind, read_objects
from gpner.formats.raw import Place, Problem, RawEntity, RawExample


def read(path: Path) -> Iterator[RawExample | Problem]:
    """Read a file in CLUENER's format, plain or .gz; without an id the line's number is taken."""
    return read_objects(path, _parse)


def _parse(row: dict[str, Any], place: Place) -> Iterator[RawExample | Problem]:
    for key in ("text", "label"):
        if key not in row:
            raise DataError(f"an example must have the keys 'text' and 'label', was without: {key!r}")
    if not isinstance(row["label"], dict):
        raise DataError(f"'label' must be an object, was: {kind(row['label'])}")
    entities = []
    for label, surfaces in row["label"].items():
        for item in _spans(label, surfaces, place):
            if isinstance(item, Problem):
                yield item
            else:
                entities.append(item)
    yield RawExample(place, row.get("id", place.line), row["text"], entities)


def _spans(label: str, surfaces: object, place: Place) -> Iterator[RawEntity | Problem]:
    if not isinstance(surfaces, dict):
        yield place.problem(f"label {label!r} must hold an object of surfaces, was: {kind(surfaces)}; left out")
        return
    for surface, spans in surfaces.items():
        if not isinstance(spans, list):
            yield place.problem(f"{surface!r} must hold a list of [first, last], was: {kind(spans)}; left out")
            continue
        for span in spans:
            if isinstance(span, list) and len(span) == 2:
                first, last = span
                end = last + 1 if type(last) is int else last
                yield RawEntity(place, first, end, label, surface)
            else:
                yield place.problem(f"a span must be [first, last], was: {json.dumps(span)[:80]}; left out")
