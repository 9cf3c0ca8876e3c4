"""JSONL exports of doccano's sequence labelling, version 1, in both shapes.

`{"id", "text", "label": [[start, end, label], ...]}`, and where the project uses relations `{"id", "text", "entities":
[{"id", "label", "start_offset", "end_offset"}, ...], "relations"}`. Older ones name the keys `labels` and `data`.

doccano counts as its page's JavaScript does: in UTF-16 code units, of which characters past U+FFFF (most emoji) are
two (doccano's issue 2290). A project set to count grapheme clusters, and spans that were imported, may count otherwise,
and nothing in the export tells. So wherever that makes a difference it is reported.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpner.errors import DataError
from gpner.formats.lines import kind, read_objects
from gpner.formats.raw import Place, Problem, RawEntity, RawExample

LAST_OF_ONE_UNIT = "\uffff"


def read(path: Path) -> Iterator[RawExample | Problem]:
    """Read an export, plain or .gz; relations, comments and metadata are left alone."""
    return read_objects(path, _parse)


def _parse(row: dict[str, Any], place: Place) -> Iterator[RawExample | Problem]:
    text = _first_of(row, "text", "data")
    items = _first_of(row, "entities", "label", "labels")
    if not isinstance(items, list):
        raise DataError(f"an example's labels must be a list, were: {kind(items)}")
    characters = _characters(text) if isinstance(text, str) else []
    entities = []
    moved = False
    for item in items:
        parts = _parts(item)
        if parts is None:
            form = "[start, end, label] or an object with 'start_offset', 'end_offset' and 'label'"
            yield place.problem(f"an entity must be {form}, was: {json.dumps(item)[:80]}; left out")
            continue
        start, end = (_to_characters(offset, characters) for offset in parts[:2])
        if start is None or end is None:
            yield place.problem(
                f"entity {parts[2]!r} at {parts[0]}-{parts[1]} must not cut a character in two; left out"
            )
            continue
        moved |= (start, end) != parts[:2]
        entities.append(RawEntity(place, start, end, parts[2]))
    if moved:
        yield place.problem(
            "offsets after characters past U+FFFF (emoji) were read as UTF-16 code units, as doccano counts; check them"
        )
    yield RawExample(place, row.get("id", place.line), text, entities)


def _first_of(row: dict[str, Any], *keys: str) -> object:
    for key in keys:
        if key in row:
            return row[key]
    known, came = " or ".join(map(repr, keys)), ", ".join(row)
    raise DataError(f"an example must have the key {known}, was with: {came[:80]}")


def _parts(item: object) -> tuple[object, object, object] | None:
    if isinstance(item, list) and len(item) == 3:
        return item[0], item[1], item[2]
    if isinstance(item, dict) and {"start_offset", "end_offset", "label"} <= item.keys():
        return item["start_offset"], item["end_offset"], item["label"]
    return None


def _characters(text: str) -> list[int | None]:
    """The character that begins at each UTF-16 code unit, None in the middle of one; empty where both counts agree."""
    if all(character <= LAST_OF_ONE_UNIT for character in text):
        return []
    units: list[int | None] = []
    for index, character in enumerate(text):
        units.append(index)
        if character > LAST_OF_ONE_UNIT:
            units.append(None)
    return [*units, len(text)]


def _to_characters(offset: object, characters: list[int | None]) -> object:
    """The offset in characters; None inside a character. What is out of range is left to be refused with the rest."""
    return characters[offset] if type(offset) is int and 0 <= offset < len(characters) else offset
