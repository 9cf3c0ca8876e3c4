"""Files of examples, checked line by line, and the features that training reads.

A wrong offset in a training file costs a model its quality without a word, so everything is checked on reading and the
message says where: `train.jsonl:812: ...`.
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from gpner.errors import DataError
from gpner.tokenization import TextTokenizer, TokenizedText, align, windows_holding


@dataclass(frozen=True, slots=True)
class Example:
    """A text with its entities: start, end (characters, end exclusive) and label, each once."""

    id: str
    text: str
    entities: tuple[tuple[int, int, str], ...]


@dataclass(frozen=True, slots=True)
class Feature:
    """One window of an example, as training reads it.

    `token_ids` include `prefix` special tokens before the `n_content` content tokens and some after; `spans` are label
    index, first and last token (inclusive), counted from the first content token.
    """

    token_ids: list[int]
    prefix: int
    n_content: int
    spans: list[tuple[int, int, int]]


def read_examples(path: Path) -> list[Example]:
    """Read a JSONL file of examples, plain or .gz; blank lines are skipped.

    A line is `{"id", "text", "entities"}`. An entity is `[start, end, label]` or an object with these keys. Without an
    id the line's number is taken. Other keys are left alone.

    Raises:
        DataError: If the file cannot be read or has no examples, or a line breaks the format; starts with `file:line`.
    """
    examples: list[Example] = []
    lines: dict[str, int] = {}
    number = 0
    try:
        for number, line in _lines(path):
            example = _parse(line, number)
            if lines.setdefault(example.id, number) != number:
                raise DataError(f"id {example.id!r} must be unique, line {lines[example.id]} has it too; rename one")
            examples.append(example)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: must be a readable file of examples, was not: {error}") from error
    except DataError as error:
        raise DataError(f"{path}:{number}: {error}") from error
    if not examples:
        raise DataError(f"{path}: must hold at least one example, was empty; write one JSON object a line")
    return examples


def labels_of(examples: Iterable[Example]) -> list[str]:
    """Every label that occurs, sorted."""
    return sorted({label for example in examples for _, _, label in example.entities})


def build_features(
    examples: Sequence[Example],
    tokenizer: TextTokenizer,
    labels: Sequence[str],
    *,
    max_entity_tokens: int | None = None,
) -> tuple[list[Feature], list[tuple[str, int, int, str]]]:
    """Turn examples into windows with spans of tokens.

    An entity goes into every window that holds it whole.

    Returns:
        A feature for every window, in the order of examples; and the entities that no feature has, as (example id,
        start, end, label): tokens cannot express them, they have more than `max_entity_tokens` tokens, or they are
        longer than the windows' overlap and no window holds them.

    Raises:
        DataError: If an entity's label is not among `labels`.
    """
    label_indices = {label: index for index, label in enumerate(labels)}
    features: list[Feature] = []
    lost: list[tuple[str, int, int, str]] = []
    for example, tokenized in zip(examples, tokenizer([example.text for example in examples]), strict=True):
        for _, _, label in example.entities:
            if label not in label_indices:
                known = ", ".join(labels)
                raise DataError(f"labels must be among {known}, in example {example.id!r} was: {label!r}")
        of_example, unfit = _features(example, tokenized, label_indices, max_entity_tokens or tokenized.n_tokens)
        features.extend(of_example)
        lost.extend((example.id, *entity) for entity in unfit)
    return features, lost


def _features(
    example: Example, tokenized: TokenizedText, label_indices: dict[str, int], longest: int
) -> tuple[list[Feature], list[tuple[int, int, str]]]:
    windows = tokenized.windows
    features = [Feature(window.token_ids, window.prefix, window.n_content, []) for window in windows]
    aligned, lost = align(tokenized, example.entities)
    for label, first, last in aligned:
        holding = windows_holding(windows, first, last) if last - first < longest else range(0)
        for index in holding:
            offset = windows[index].first_token
            features[index].spans.append((label_indices[label], first - offset, last - offset))
        if not holding:
            lost.append((tokenized.offsets[first][0], tokenized.offsets[last][1], label))
    return features, lost


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, counted from 1. Bytes, as str would also split at U+2028."""
    with cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line


def _parse(line: bytes, number: int) -> Example:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise DataError(f"a line must be UTF-8, was not at byte {error.start}; convert the file") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"a line must be one JSON object, was not: {error}") from None
    if not isinstance(row, dict):
        raise DataError(f"a line must be one JSON object, was: {_kind(row)}")
    for key in ("text", "entities"):
        if key not in row:
            raise DataError(f"an example must have the keys 'text' and 'entities', was without: {key!r}")
    text = _text(row["text"])
    if not isinstance(row["entities"], list):
        raise DataError(f"'entities' must be a list, was: {_kind(row['entities'])}")
    entities = dict.fromkeys(_entity(item, len(text)) for item in row["entities"])
    return Example(_id(row.get("id", number)), text, tuple(entities))


def _id(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(f"'id' must be a string that is not empty, or a whole number, was: {value!r}")
    return str(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise DataError(f"'text' must be a string, was: {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"'text' must be valid Unicode, was a lone surrogate at character {error.start}") from None
    return value


def _entity(item: object, length: int) -> tuple[int, int, str]:
    start, end, label = _entity_parts(item)
    if not isinstance(label, str) or not label:
        raise DataError(f"a label must be a string that is not empty, was: {label!r}")
    for value in (start, end):
        if isinstance(value, bool) or not isinstance(value, int):
            raise DataError(f"entity {label!r} must start and end at whole numbers, was: {value!r}")
    start, end = cast(int, start), cast(int, end)
    if not 0 <= start < end:
        raise DataError(f"entity {label!r} must start at 0 or later and end after its start, was: {start}-{end}")
    if end > length:
        raise DataError(f"entity {label!r} covers characters {start}-{end} but the text has {length}")
    return start, end, label


def _entity_parts(item: object) -> tuple[object, object, object]:
    if isinstance(item, dict) and {"start", "end", "label"} <= item.keys():
        return item["start"], item["end"], item["label"]
    if isinstance(item, list) and len(item) == 3:
        return item[0], item[1], item[2]
    raise DataError(f"an entity must be [start, end, label] or an object with these keys, was: {json.dumps(item)[:80]}")


def _kind(value: object) -> str:
    return type(value).__name__
