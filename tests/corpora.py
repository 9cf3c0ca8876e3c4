"""Examples written in the formats of others, by the plainest code that does it."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from gpner.examples import Corpus, Example, Problem, read_corpus
from tests.tokenizers_fixtures import SHARED_DATA

Entities = Sequence[tuple[int, int, str]]  # first token, last token (inclusive), label


def real_corpus(name: str) -> Corpus:
    path = SHARED_DATA / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"needs {path.name} in the shared data")
    return read_corpus(path, strict=True)


def write_lines(path: Path, *lines: object) -> Path:
    path.write_bytes(
        b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)
    )
    return path


def messages(corpus: Corpus, path: Path) -> list[tuple[int, str]]:
    """Lines and messages of the problems, which all are in one file."""
    assert all(problem.file == str(path) for problem in corpus.problems)
    return [(problem.line, problem.message) for problem in corpus.problems]


def contents(examples: Iterable[Example]) -> list[tuple[str, set[tuple[int, int, str]]]]:
    return [(example.text, set(example.entities)) for example in examples]


def places(problems: Iterable[Problem]) -> list[str]:
    return [f"{Path(problem.file).name}:{problem.line}" for problem in problems]


def iob1(length: int, entities: Entities) -> list[str]:
    tags = iob2(length, entities)
    ends = {(last, label) for _, last, label in entities}
    return [
        "I" + tag[1:] if tag[0] == "B" and (index - 1, tag[2:]) not in ends else tag for index, tag in enumerate(tags)
    ]


def iob2(length: int, entities: Entities) -> list[str]:
    return _tags(length, entities, "BII", "B")


def bioes(length: int, entities: Entities) -> list[str]:
    return _tags(length, entities, "BIE", "S")


def bilou(length: int, entities: Entities) -> list[str]:
    return _tags(length, entities, "BIL", "U")


def bmes(length: int, entities: Entities) -> list[str]:
    return _tags(length, entities, "BME", "S")


SCHEMES: dict[str, Callable[[int, Entities], list[str]]] = {
    "IOB1": iob1,
    "IOB2": iob2,
    "BIOES": bioes,
    "BILOU": bilou,
    "BMES": bmes,
}


def _tags(length: int, entities: Entities, several: str, single: str) -> list[str]:
    tags = ["O"] * length
    begin, inside, end = several
    for first, last, label in entities:
        letters = [begin, *inside * (last - first - 1), end] if last > first else [single]
        tags[first : last + 1] = [f"{letter}-{label}" for letter in letters]
    return tags


def as_cluener(example: Example) -> dict[str, object]:
    labels: dict[str, dict[str, list[list[int]]]] = {}
    for start, end, label in example.entities:
        labels.setdefault(label, {}).setdefault(example.text[start:end], []).append([start, end - 1])
    return {"text": example.text, "label": labels}


def write_brat(folder: Path, examples: Iterable[Example]) -> None:
    for example in examples:
        (folder / f"{example.id}.txt").write_bytes(example.text.encode())
        lines = [
            f"T{number}\t{label} {start} {end}\t{example.text[start:end].replace(chr(10), ' ')}\n"
            for number, (start, end, label) in enumerate(example.entities, 1)
        ]
        (folder / f"{example.id}.ann").write_bytes("".join(lines).encode())
