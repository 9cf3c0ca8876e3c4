"""Files of examples, read in every format that we know and checked.

A wrong offset in a training file costs a model its quality without a word. So everything is checked on reading, and
whatever could not be taken as it stands is a `Problem` that says where: `train.jsonl:812: ...`.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from gpner.errors import ConfigError, DataError
from gpner.formats import READERS, detect
from gpner.formats.lines import kind
from gpner.formats.raw import Problem, RawEntity, RawExample

__all__ = ["Corpus", "Example", "Problem", "labels_of", "read_corpus"]

# Categories of Unicode: control and format characters, separators of lines and paragraphs.
INVISIBLE = ("Cc", "Cf", "Zl", "Zp")
# Those among them that words of Persian and Indian scripts are spelt with.
JOINERS = ("\u200c", "\u200d")


@dataclass(frozen=True, slots=True)
class Example:
    """A text with its entities: start, end (characters, end exclusive) and label, each once."""

    id: str
    text: str
    entities: tuple[tuple[int, int, str], ...]


@dataclass(frozen=True, slots=True)
class Corpus:
    """The examples of a file or folder, and what in it was not taken as it stands."""

    examples: tuple[Example, ...]
    problems: tuple[Problem, ...]


def read_corpus(path: Path, *, format: str = "auto", strict: bool = False) -> Corpus:  # noqa: A002  # the flag's name
    """Read a file or folder of examples.

    A broken line loses its example, a broken entity only itself; every one of them is among the problems. So is
    whatever was changed: blank edges of an entity or a label are trimmed, an entity given twice is kept once, and of
    two examples with the id `a` the second becomes `a#2`.

    Args:
        path: A file, plain or .gz, or a folder (brat).
        format: One of `gpner.formats.READERS`, or `auto` to tell by the content.
        strict: Stop at the first problem.

    Raises:
        DataError: If there is no example to be had, or, with `strict`, at the first problem; starts with `file:line`.
        ConfigError: If there is no such format.
    """
    if format != "auto" and format not in READERS:
        raise ConfigError(f"format must be one of auto, {', '.join(READERS)}, was: {format!r}")
    reader = READERS[detect(path) if format == "auto" else format]
    examples: list[Example] = []
    problems: list[Problem] = []
    for item in _checked(reader(path)):
        if isinstance(item, Example):
            examples.append(item)
        elif strict:
            raise DataError(str(item))
        else:
            problems.append(item)
    if not examples:
        raise DataError(_nothing_left(path, problems))
    return Corpus(tuple(examples), tuple(problems))


def labels_of(examples: Iterable[Example]) -> list[str]:
    """Every label that occurs, sorted."""
    return sorted({label for example in examples for _, _, label in example.entities})


def _nothing_left(path: Path, problems: list[Problem]) -> str:
    if not problems:
        return f"{path}: must hold at least one example, was empty"
    if len(problems) == 1:
        return str(problems[0])
    return f"{problems[0]} (no example is left; problems: {len(problems)})"


def _checked(items: Iterable[RawExample | Problem]) -> Iterator[Example | Problem]:
    first_places: dict[str, str] = {}
    repeated: Counter[str] = Counter()
    for item in items:
        if isinstance(item, Problem):
            yield item
            continue
        try:
            identity, text = _id(item.id), _text(item.text)
        except DataError as error:
            yield item.place.problem(str(error))
            continue
        entities: dict[tuple[int, int, str], None] = {}
        for raw in item.entities:
            yield from _add_entity(entities, raw, text)
        unique = identity
        while unique in first_places:
            repeated[identity] += 1
            unique = f"{identity}#{repeated[identity] + 1}"
        if unique != identity:
            other = first_places[identity]
            yield item.place.problem(f"id {identity!r} must be unique, {other} has it too; read as {unique!r}")
        first_places[unique] = f"{item.place.file}:{item.place.line}"
        yield Example(unique, text, tuple(entities))


def _id(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(f"'id' must be a string that is not empty, or a whole number, was: {repr(value)[:80]}")
    return _unicode(str(value), "'id'")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise DataError(f"'text' must be a string, was: {kind(value)}")
    return _unicode(value, "'text'")


def _unicode(value: str, name: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{name} must be valid Unicode, was a lone surrogate at character {error.start}") from None
    return value


def _add_entity(entities: dict[tuple[int, int, str], None], raw: RawEntity, text: str) -> Iterator[Problem]:
    """Put an entity to those of its example unless it is broken or there already; says what it did with it."""
    try:
        start, end, label = _entity(raw, text)
    except DataError as error:
        yield raw.place.problem(f"{error}; left out")
        return
    if label != raw.label:
        yield raw.place.problem(
            f"a label must not begin or end with a blank, {raw.label!r:.80} does; read as {label!r:.80}"
        )
    cut = text[start:end]
    trimmed = start + len(cut) - len(cut.lstrip()), start + len(cut.rstrip()), label
    if not cut.strip():
        yield raw.place.problem(f"entity {label!r} must cover more than blanks, {start}-{end} does not; left out")
        return
    if trimmed != (start, end, label):
        to = f"{trimmed[0]}-{trimmed[1]}"
        yield raw.place.problem(
            f"entity {label!r} must not begin or end with a blank, {start}-{end} does; read as {to}"
        )
    if trimmed in entities:
        yield raw.place.problem(f"entity {label!r} at {trimmed[0]}-{trimmed[1]} is given twice; kept once")
    entities[trimmed] = None


def _entity(raw: RawEntity, text: str) -> tuple[int, int, str]:
    label = _label(raw.label)
    for value in (raw.start, raw.end):
        if isinstance(value, bool) or not isinstance(value, int):
            raise DataError(f"entity {label!r} must start and end at whole numbers, was: {value!r:.80}")
    start, end = cast(int, raw.start), cast(int, raw.end)
    if not 0 <= start < end:
        raise DataError(f"entity {label!r} must start at 0 or later and end after its start, was: {start}-{end}")
    if end > len(text):
        raise DataError(f"entity {label!r} covers characters {start}-{end} but the text has {len(text)}")
    cut = text[start:end]
    if raw.surface is not None and _one_line(cut) != _one_line(raw.surface):
        raise DataError(
            f"entity {label!r} at {start}-{end} must cover {raw.surface!r:.80}, the text there is {cut!r:.80}"
        )
    return start, end, label


def _label(value: object) -> str:
    """A label without blanks at its edges: with them, or with what nobody sees, it would be another label."""
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"a label must be a string that is not empty, was: {value!r:.80}")
    label = _unicode(value, "a label").strip()
    if any(unicodedata.category(character) in INVISIBLE and character not in JOINERS for character in label):
        raise DataError(f"a label must hold no control or invisible character, was: {value!r:.80}")
    return label


def _one_line(text: str) -> str:
    """Formats that quote an entity's text do so on one line."""
    return text.replace("\r", " ").replace("\n", " ").strip()
