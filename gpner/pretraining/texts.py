"""Plain texts for pre-training: files or folders of them, as whole documents or line by line; no torch here.

Nothing is left out in silence: a line that cannot be read stops the reading with its place, blank ones are counted, and
so are files of a folder that are no texts, which a warning names.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpner.errors import ConfigError, DataError
from gpner.formats.lines import Line, parse_object, read_lines
from gpner.formats.raw import Problem

logger = logging.getLogger(__name__)

JSONL_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
SUFFIXES = (".txt", ".txt.gz", ".txt.zst", *JSONL_SUFFIXES)
# How many files that are no texts the warning names.
NAMED_FILES = 3


@dataclass(frozen=True, slots=True)
class TextDocument:
    """A text, or the lines of one: `sequences` are read apart from each other, but are held out together."""

    id: str
    sequences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Texts:
    """What was read, how many lines or texts were blank, and how many files of the folder are no texts."""

    documents: tuple[TextDocument, ...]
    blank: int
    other_files: int


def read_texts(path: Path, *, by: str) -> Texts:
    """Read a file of texts, or all such files of a folder and the folders in it, in the order of their names.

    A .txt file is one document; a .jsonl file has one on each line, under the key `text`. By line, each line of a .txt
    file is a document of its own, and a text of a .jsonl file becomes one sequence for each of its lines.

    Args:
        path: .txt, .jsonl, either of them as .gz or .zst, or a folder.
        by: `document` or `line`.

    Raises:
        DataError: If a file or a line cannot be read, or there is no text at all; starts with the file.
    """
    documents: list[TextDocument] = []
    blank = 0
    files, other_files = _files(path)
    for file in files:
        for name, text in _read(file, by):
            lines = text.splitlines() if by == "line" else [text]
            sequences = tuple(line for line in lines if line.strip())
            blank += max(len(lines), 1) - len(sequences)
            if sequences:
                documents.append(TextDocument(name, sequences))
    if not documents:
        raise DataError(f"{path}: must hold at least one text, all are blank; give files with text")
    return Texts(tuple(documents), blank, other_files)


def hold_out(
    documents: Sequence[TextDocument], share: float, seed: int
) -> tuple[tuple[TextDocument, ...], tuple[TextDocument, ...]]:
    """Divide documents at random into those to learn from and those to evaluate on, each in their order.

    Raises:
        DataError: If there are too few for both.
    """
    n_held_out = max(1, round(share * len(documents)))
    if n_held_out >= len(documents):
        raise DataError(
            f"at least two documents are needed to hold some out, there are {len(documents)}; give texts of their own "
            "with --eval, or read --by line"
        )
    chosen = set(np.random.default_rng(seed).choice(len(documents), n_held_out, replace=False).tolist())
    learnt = tuple(document for index, document in enumerate(documents) if index not in chosen)
    return learnt, tuple(documents[index] for index in sorted(chosen))


def _files(path: Path) -> tuple[list[Path], int]:
    """The texts, and how many other files there are beside them."""
    if not path.is_dir():
        if not _is_text(path):
            raise ConfigError(f"texts must be {', '.join(SUFFIXES)} or a folder of them, was: {path}")
        return [path], 0
    inside = sorted(file for file in path.rglob("*") if file.is_file())
    files = [file for file in inside if _is_text(file)]
    if not files:
        raise DataError(f"{path}: a folder of texts must hold {' or '.join(SUFFIXES)} files, it holds none")
    others = [str(file.relative_to(path)) for file in inside if not _is_text(file)]
    if others:
        named = ", ".join(map(repr, others[:NAMED_FILES])) + (", ..." if len(others) > NAMED_FILES else "")
        logger.warning("%s: texts must be %s; left out (%d): %s", path, ", ".join(SUFFIXES), len(others), named)
    return files, len(others)


def _is_text(file: Path) -> bool:
    return file.name.lower().endswith(SUFFIXES)


def _read(file: Path, by: str) -> Iterator[tuple[str, str]]:
    lines = _good_lines(file)
    if file.name.lower().endswith(JSONL_SUFFIXES):
        return ((_name(line), _text(line)) for line in lines if line.text.strip())
    if by == "line":
        return ((_name(line), line.text) for line in lines)
    return iter([(str(file), "\n".join(line.text for line in lines))])


def _good_lines(file: Path) -> Iterator[Line]:
    for line in read_lines(file):
        if isinstance(line, Problem):
            raise DataError(str(line))
        yield line


def _name(line: Line) -> str:
    return f"{line.place.file}:{line.place.line}"


def _text(line: Line) -> str:
    try:
        text = parse_object(line.text).get("text")
        if not isinstance(text, str):
            raise DataError(f"a line must have a string under the key 'text', was: {text!r:.80}")
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{_name(line)}: 'text' must be valid Unicode, was a lone surrogate at {error.start}") from None
    except DataError as error:
        raise DataError(f"{_name(line)}: {error}") from None
    return text
