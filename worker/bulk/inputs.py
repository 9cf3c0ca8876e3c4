"""What the input consists of: paths, globs, folders, addresses and standard input become an ordered list of sources."""

import glob
import hashlib
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

from gpner.errors import ConfigError
from worker.bulk.addresses import Remote, innermost, is_remote, remote_files, shown, without_local_protocol

Kind = Literal["jsonl", "csv", "tsv", "parquet", "arrow", "texts"]
KINDS: dict[str, Kind] = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".arrow": "arrow",
    ".txt": "texts",
}  # fmt: skip
# What a name may end in besides, and what pyarrow calls it.
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
STANDARD_INPUT = "-"
# In the output of a job: what it remembers.
JOB_FOLDER = ".job"
# A file is told by its length and so many bytes at both ends: reading all of it would double the reading.
END_BYTES = 65_536
# Letters of a digest that tells names apart.
MARK_LETTERS = 8
KNOWN = "known are .jsonl, .csv, .tsv, .parquet and .txt (with .gz, .zst or .bz2 behind), folders, and - for JSONL"


@dataclass(frozen=True, slots=True)
class File:
    """A file: its name as the output has it, its size in bytes, 0 of standard input, and how it is opened."""

    name: str
    size: int
    remote: Remote | None = None

    @property
    def address(self) -> str:
        """What names it alone; if it lies behind an address, that may hold secrets."""
        if self.remote is not None:
            return self.remote.address
        return self.name if self.name == STANDARD_INPUT else os.path.realpath(self.name)

    def open(self) -> BinaryIO:
        """Open it.

        Raises:
            OSError: If that fails.
        """
        if self.remote is not None:
            return self.remote.open()
        return sys.stdin.buffer if self.name == STANDARD_INPUT else Path(self.name).open("rb")


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or standard input, or text files that count as one source with a row for each."""

    name: str
    kind: Kind
    files: tuple[File, ...]
    compression: str | None = None

    @property
    def file(self) -> File:
        """The file that it is, but for the kind "texts"."""
        return self.files[0]

    @property
    def size(self) -> int:
        """In bytes, 0 of standard input."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class Input:
    """All sources in their order, and files that were named once more, each with its first name: they are read once."""

    sources: list[Source]
    doubles: list[tuple[str, str]]


def find_sources(inputs: Sequence[str], output: Path | None = None) -> Input:
    """The sources of the inputs in their order, those of a glob or folder by name; no file twice.

    Args:
        inputs: What the user named.
        output: Folder of the job: a job must not read what it writes, so nothing in it is found.

    Raises:
        ConfigError: If one names nothing, nothing but the output, or something that cannot be read.
    """
    files = _Files(output)
    sources: list[Source] = []
    for name in map(without_local_protocol, inputs):
        found = [source for group, members in _groups(name) for source in _of_files(group, members)]
        if not found:
            raise ConfigError(f"an input must name files, {shown(name)} names none; {KNOWN}")
        if all(files.is_written(file) for source in found for file in source.files):
            raise ConfigError(f"--output must not hold the input, {output} holds {name}; choose another folder")
        sources += filter(None, map(files.take, found))
    return Input(sources, files.doubles)


class _Files:
    """The files that were found so far, told by where they really lie."""

    def __init__(self, output: Path | None) -> None:
        self.doubles: list[tuple[str, str]] = []
        self._output = None if output is None else output.resolve()
        self._names: dict[str, str] = {}  # by address
        self._taken: set[str] = set()
        self._taken_texts: set[str] = set()

    def is_written(self, file: File) -> bool:
        """Whether a file belongs to the output."""
        return self._output is not None and self._output in Path(file.address).parents

    def take(self, source: Source) -> Source | None:
        """A source without files of the output, and those that were found before; None if that leaves nothing."""
        files = tuple(filter(None, map(self._take_file, source.files)))
        if not files:
            return None
        name = _own_name(source.name, files[0], self._taken_texts) if source.kind == "texts" else files[0].name
        return replace(source, files=files, name=name)

    def _take_file(self, file: File) -> File | None:
        if self.is_written(file):
            return None
        _refuse_unwritable(file.name)
        address = file.address
        if address in self._names:
            self.doubles.append((file.name, self._names[address]))
            return None
        self._names[address] = _own_name(file.name, file, self._taken)
        return replace(file, name=self._names[address])


def _own_name(name: str, file: File, taken: set[str]) -> str:
    """A name that is not taken yet: addresses may differ in their secrets alone, which are not shown."""
    if name in taken:
        name = f"{name}?{hashlib.sha256(file.address.encode()).hexdigest()[:MARK_LETTERS]}"
    taken.add(name)
    return name


def digest(source: Source, length: int) -> str | None:
    """What tells whether the first `length` bytes of a source are what they were; None for standard input.

    Raises:
        ConfigError: If the source cannot be read.
    """
    if source.name == STANDARD_INPUT:
        return None
    if source.kind == "texts":
        files = [(file.name, file.size) for file in source.files[:length]]
        return hashlib.sha256(repr(files).encode()).hexdigest()
    with _readable(source.file.address), source.file.open() as file:
        first = file.read(min(length, 2 * END_BYTES))
        file.seek(max(len(first), length - END_BYTES))  # never back, as not every address can
        last = (first + file.read(min(length - len(first), END_BYTES)))[-END_BYTES:]
        return hashlib.sha256(first[:END_BYTES] + last).hexdigest()


def begins_a_line(source: Source, start: int) -> bool:
    """Whether the bytes of a source from `start` on begin with the end of a line; not to be told if compressed.

    Raises:
        ConfigError: If the source cannot be read.
    """
    if source.compression:
        return False
    with _readable(source.file.address), source.file.open() as file:
        file.seek(start)
        return file.read(1) in (b"\n", b"\r")


def length_of(source: Source) -> int:
    """What a source has grown by if it has grown: files of the kind "texts", bytes of any other."""
    return len(source.files) if source.kind == "texts" else source.size


def _refuse_unwritable(name: str) -> None:
    """Every row of the output names its source, so the name must be one that can be written."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"an input's name must be UTF-8, was: {name!a}; rename it") from None


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"an input must be readable, {shown(name)} is not: {error.strerror or error}") from None


def _groups(name: str) -> Iterator[tuple[str, Sequence[File]]]:
    """The files that an input names, by the folder, glob or file through which it names them."""
    if name == STANDARD_INPUT:
        yield name, [File(name, 0)]
    elif is_remote(name):
        plain = shown(name)
        with _readable(name):
            found = remote_files(name, names_file=_kind(plain)[0] is not None)
            yield plain, [File(shown(each.address), each.size, each) for each in found]
    else:
        # A link to nothing does not exist, and is there all the same.
        names = [name] if os.path.lexists(name) else sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - a pattern may be absolute
        for folder in filter(os.path.isdir, names):
            yield from _of_folder(Path(folder))
        yield name, [_file(Path(path)) for path in names if not Path(path).is_dir()]


def _of_folder(folder: Path) -> Iterator[tuple[str, Sequence[File]]]:
    """A data set of Hugging Face's `save_to_disk`, one split of it or all; otherwise the files that can be read."""
    if (folder / "dataset_dict.json").is_file():
        for split in _named_in(folder / "dataset_dict.json", lambda found: found["splits"]):
            yield from _of_folder(folder / split)
    elif (folder / "state.json").is_file():
        names = _named_in(folder / "state.json", lambda found: [file["filename"] for file in found["_data_files"]])
        yield str(folder), [_file(folder / name) for name in names]
    else:
        with _readable(str(folder)):
            yield str(folder), [_file(path) for path in sorted(_walk(folder)) if _kind(path.name)[0]]


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder, through links too, but hidden ones and those of jobs.

    Each folder is walked once, as a link may lead upwards. Outputs of other jobs lie where a job was begun afresh.
    """

    def fail(error: OSError) -> None:
        raise error

    places: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        place = os.path.realpath(parent)
        if place in places or (JOB_FOLDER in folders and Path(parent) != folder):
            folders.clear()
            continue
        places.add(place)
        folders[:] = sorted(filter(_is_visible, folders))
        yield from (Path(parent, name) for name in filter(_is_visible, names))


def _is_visible(name: str) -> bool:
    return not name.startswith(".")


def _file(path: Path) -> File:
    with _readable(str(path)):
        about = path.stat()
    if not stat.S_ISREG(about.st_mode):  # to open a pipe could take for ever
        raise ConfigError(f"an input must be a file or a folder, {path} is neither; - reads standard input")
    return File(str(path), about.st_size)


def _of_files(name: str, files: Sequence[File]) -> list[Source]:
    """One source for each file, and one for all texts. Files of other kinds are passed over unless named themselves."""
    sources: list[Source] = []
    texts: list[File] = []
    explicit = [Path(file.name).name for file in files] == [Path(name).name]
    for file in files:
        kind, compression = _kind(file.name)
        if kind == "texts":
            texts.append(file)
        elif kind:
            sources.append(Source(file.name, kind, (file,), compression))
        elif explicit:
            raise ConfigError(f"an input's name must say what it is, {file.name} does not; {KNOWN}")
    if texts:
        sources.append(Source(name, "texts", tuple(texts)))
    return sources


def _kind(path: str) -> tuple[Kind | None, str | None]:
    """What a name says of its file, in any case of letters: its kind and its compression, if they are known."""
    if path == STANDARD_INPUT:
        return "jsonl", None
    endings = [ending.lower() for ending in Path(innermost(path)).suffixes]
    compression = COMPRESSIONS.get(endings[-1]) if endings else None
    stem = endings[:-1] if compression else endings
    kind = KINDS.get(stem[-1]) if stem else None
    if compression and kind not in ("jsonl", "csv", "tsv"):
        return None, None
    return kind, compression


def _named_in(path: Path, names_in: Callable[[Any], Sequence[object]]) -> list[str]:
    try:
        return [str(name) for name in names_in(json.loads(path.read_bytes()))]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigError(
            f"a Hugging Face data set needs its {path.name}, {path} is broken: {error!r}; if {path.parent} is none, "
            "name the files in it"
        ) from None
