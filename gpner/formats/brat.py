"""brat's standoff format: a folder of pairs, `NAME.txt` with the text and `NAME.ann` with what was annotated.

Text-bound annotations (`T` lines) are entities; relations, events, attributes, notes and the like are left alone.
Offsets count characters of the text as it stands in its file, line ends and a byte-order mark included.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from gpner.errors import DataError
from gpner.formats.lines import read_lines
from gpner.formats.raw import Place, Problem, RawEntity, RawExample

# An entity, its label, its spans and the text that it covers, on one line.
ENTITY = re.compile(r"T\S*\t(?P<label>\S+) (?P<spans>\d{1,9} \d{1,9}(?:;\d{1,9} \d{1,9})*)(?:\t(?P<surface>.*))?")
# Other annotations: attributes, modifications, relations, events, normalisations, notes, equivalences.
OTHERS = tuple("AMREN#*")


def read(path: Path) -> Iterator[RawExample | Problem]:
    """Read a folder and the folders in it, or the one pair that a file belongs to.

    An example's id is the name of its files, with the folder inside `path` before it.
    """
    for stem in _stems(path):
        name = stem.relative_to(path).as_posix() if path.is_dir() else stem.name
        yield from _read_pair(name, Path(f"{stem}.txt"), Path(f"{stem}.ann"))


def _stems(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path.with_suffix("")]
    return sorted({file.with_suffix("") for file in path.rglob("*") if file.suffix in (".txt", ".ann")})


def _read_pair(name: str, text_file: Path, annotation_file: Path) -> Iterator[RawExample | Problem]:
    try:
        text = text_file.read_bytes().decode()
        annotation_file.open().close()
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        yield Problem(
            str(text_file), number, "a text must be UTF-8, was not; convert the file; its example is left out"
        )
        return
    except OSError as error:
        yield Problem(
            str(error.filename), 0, f"a pair of .txt and .ann must be there, was not: {error.strerror}; left out"
        )
        return
    entities = []
    for line in read_lines(annotation_file):
        if isinstance(line, Problem):
            yield line
        elif line.text.strip() and not line.text.startswith(OTHERS):
            try:
                entities.append(_entity(line.text, line.place))
            except DataError as error:
                yield line.place.problem(f"{error}; left out")
    yield RawExample(Place(str(text_file), 0), name, text, entities)


def _entity(line: str, place: Place) -> RawEntity:
    match = ENTITY.fullmatch(line)
    if match is None:
        raise DataError(f"an entity must read 'T1', tab, 'LABEL START END', tab, text; was: {line[:80]!r}")
    if ";" in match["spans"]:
        raise DataError(f"entity {match['label']!r} must be one span, was several: {match['spans']}")
    start, end = map(int, match["spans"].split())
    return RawEntity(place, start, end, match["label"], match["surface"] or None)
