"""Which format a file or folder is in, told by what it holds."""

from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path
from typing import Any

from gpner.errors import DataError
from gpner.formats import brat, cluener, conll, doccano, jsonl
from gpner.formats.lines import Line, parse_object, read_lines
from gpner.formats.raw import Problem, Reader

READERS: dict[str, Reader] = {
    "jsonl": jsonl.read,
    "cluener": cluener.read,
    "conll": conll.read,
    "brat": brat.read,
    "doccano": doccano.read,
}
# Lines that tell whether a file holds JSON or columns; a few broken ones among them do not mislead.
FIRST_LINES = 50


def detect(path: Path) -> str:
    """Tell the format.

    A folder with .ann files is brat's, and so is one of a pair of .txt and .ann. A file of JSON objects tells by the
    first one that has an entity, and is ours if none has. A file is CoNLL's if at least half of its first lines end
    in a tag.

    Raises:
        DataError: If it is none of them, or cannot be read, or only once: a pipe would lose what we look at.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DataError(
            f"{path}: must be a file or folder for its format to be told, is a pipe or the like; name --format"
        )
    if path.is_dir() or path.suffix == ".ann" or (path.suffix == ".txt" and path.with_suffix(".ann").is_file()):
        return _brat(path)
    lines = (line.text for line in read_lines(path) if isinstance(line, Line) and line.text.strip())
    first = list(islice(lines, FIRST_LINES))
    if not first:
        raise DataError(_first_problem(path) or f"{path}: must hold at least one example, was empty")
    if any(_object(line) for line in first):
        name = _of_objects(chain(first, lines))
    elif 2 * sum(map(conll.is_tagged, first)) >= len(first):
        name = "conll"
    else:
        # Nothing but broken lines: the reader says what is wrong with them.
        name = "jsonl" if first[0].startswith("{") else None
    if name is None:
        seen = _object(first[0])
        came = f"an object with the keys {', '.join(seen)}" if seen else repr(first[0])
        formats = ", ".join(READERS)
        raise DataError(
            _first_problem(path) or f"{path}: must be in one of the formats {formats}; its first line is {came[:200]}"
        )
    return name


def _brat(path: Path) -> str:
    if path.is_dir() and not any(path.rglob("*.ann")):
        raise DataError(f"{path}: a folder must hold .txt and .ann files, has no .ann; name a file for other formats")
    return "brat"


def _first_problem(path: Path) -> str | None:
    """What cannot be read at all, which says more than what the other lines look like: UTF-16, for one."""
    return next((str(item) for item in read_lines(path) if isinstance(item, Problem)), None)


def _object(line: str) -> dict[str, Any] | None:
    try:
        return parse_object(line)
    except DataError:
        return None


def _of_objects(lines: Iterable[str]) -> str | None:
    ours = None
    for line in lines:
        row = _object(line) or {}
        entities = row.get("entities")
        if isinstance(entities, list):
            ours = "jsonl"
            if entities:
                return "doccano" if isinstance(entities[0], dict) and "start_offset" in entities[0] else "jsonl"
        elif isinstance(row.get("label"), dict):
            return "cluener"
        elif isinstance(row.get("label"), list) or isinstance(row.get("labels"), list):
            return "doccano"
    return ours
