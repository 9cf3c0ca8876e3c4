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
from typing import Any, BinaryIO, Literal, cast

from gpner.errors import ConfigError

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
KNOWN = "known are .jsonl, .csv, .tsv, .parquet and .txt (with .gz, .zst or .bz2 behind), folders, and - for JSONL"

# Name and size in bytes.
File = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Source:
    """A file, standard input, or text files that count as one source with a row for each.

    `size` is in bytes, 0 where it cannot be known; `files` are the names and sizes of those of the kind "texts".
    """

    name: str
    kind: Kind
    size: int
    compression: str | None = None
    files: tuple[File, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The files of which it consists."""
        return tuple(name for name, _ in self.files) or (self.name,)


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
    for name in inputs:
        found = [source for group, members in _groups(name) for source in _of_files(group, members)]
        if not found:
            raise ConfigError(f"an input must name files, {name} names none; {KNOWN}")
        if all(files.is_written(file) for source in found for file in source.names):
            raise ConfigError(f"--output must not hold the input, {output} holds {name}; choose another folder")
        sources += filter(None, map(files.take, found))
    return Input(sources, files.doubles)


class _Files:
    """The files that were found so far, told by where they really lie."""

    def __init__(self, output: Path | None) -> None:
        self.doubles: list[tuple[str, str]] = []
        self._output = None if output is None else output.resolve()
        self._names: dict[str, str] = {}

    def is_written(self, name: str) -> bool:
        """Whether a file belongs to the output."""
        return self._output is not None and self._output in Path(_place(name)).parents

    def take(self, source: Source) -> Source | None:
        """A source without files of the output, and those that were found before; None if that leaves nothing."""
        if source.kind != "texts":
            return source if self._is_new(source.name) else None
        files = tuple(file for file in source.files if self._is_new(file[0]))
        return replace(source, files=files, size=sum(size for _, size in files)) if files else None

    def _is_new(self, name: str) -> bool:
        if self.is_written(name):
            return False
        _refuse_unwritable(name)
        place = _place(name)
        if place in self._names:
            self.doubles.append((name, self._names[place]))
            return False
        self._names[place] = name
        return True


def open_file(name: str) -> BinaryIO:
    """Open a file, here or anywhere that fsspec reaches.

    Raises:
        OSError: If that fails.
    """
    if name == STANDARD_INPUT:
        return sys.stdin.buffer
    if is_remote(name):
        system, path = _remote(name)
        with reaching(name):
            return cast(BinaryIO, system.open(path, "rb"))
    return Path(name).open("rb")


@contextmanager
def reaching(name: str) -> Iterator[None]:
    """Turn whatever the packages behind fsspec raise for an address into an OSError that names it."""
    try:
        yield
    except Exception as error:
        if not is_remote(name) or isinstance(error, ConfigError):
            raise
        raise OSError(f"{name} cannot be reached: {type(error).__name__}: {error}") from error


def digest(source: Source, length: int) -> str | None:
    """What tells whether the first `length` bytes of a source are what they were; None for standard input.

    Raises:
        ConfigError: If the source cannot be read.
    """
    if source.name == STANDARD_INPUT:
        return None
    if source.kind == "texts":
        return hashlib.sha256(repr(source.files[:length]).encode()).hexdigest()
    with _readable(source.name), open_file(source.name) as file:
        head = file.read(min(length, END_BYTES))
        file.seek(max(0, length - END_BYTES))
        return hashlib.sha256(head + file.read(min(length, END_BYTES))).hexdigest()


def begins_a_line(source: Source, start: int) -> bool:
    """Whether the bytes of a source from `start` on begin with the end of a line; not to be told if compressed.

    Raises:
        ConfigError: If the source cannot be read.
    """
    if source.compression:
        return False
    with _readable(source.name), open_file(source.name) as file:
        file.seek(start)
        return file.read(1) in (b"\n", b"\r")


def length_of(source: Source) -> int:
    """What a source has grown by if it has grown: files of the kind "texts", bytes of any other."""
    return len(source.files) if source.kind == "texts" else source.size


def is_remote(name: str) -> bool:
    """Whether a name is an address for fsspec."""
    return "://" in name


def _place(name: str) -> str:
    return name if name == STANDARD_INPUT or is_remote(name) else os.path.realpath(name)


def _refuse_unwritable(name: str) -> None:
    """Every row of the output names its source, so the name must be one that can be written."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"an input's name must be UTF-8, was: {name!a}; rename it") from None


@contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        with reaching(name):
            yield
    except OSError as error:
        raise ConfigError(f"an input must be readable, {name} is not: {error.strerror or error}") from None


def _groups(name: str) -> Iterator[tuple[str, Sequence[File]]]:
    """The files that an input names, by the folder, glob or file through which it names them."""
    if name == STANDARD_INPUT:
        yield name, [(name, 0)]
    elif is_remote(name):
        yield name, list(_remote_files(name))
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
    return str(path), about.st_size


def _of_files(name: str, files: Sequence[File]) -> list[Source]:
    """One source for each file, and one for all texts. Files of other kinds are passed over unless named themselves."""
    sources: list[Source] = []
    texts: list[File] = []
    explicit = [Path(path).name for path, _ in files] == [Path(name).name]
    for path, size in files:
        kind, compression = _kind(path)
        if kind == "texts":
            texts.append((path, size))
        elif kind:
            sources.append(Source(path, kind, size, compression))
        elif explicit:
            raise ConfigError(f"an input's name must say what it is, {path} does not; {KNOWN}")
    if texts:
        sources.append(Source(name, "texts", sum(size for _, size in texts), None, tuple(texts)))
    return sources


def _kind(path: str) -> tuple[Kind | None, str | None]:
    """What a name says of its file, in any case of letters: its kind and its compression, if they are known."""
    if path == STANDARD_INPUT:
        return "jsonl", None
    endings = [ending.lower() for ending in Path(path).suffixes]
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


def _remote_files(name: str) -> Iterator[File]:
    first, *rest = name.split("::")
    if rest and is_remote(first):  # a cache, which may stand in front, has a name alone
        raise ConfigError(f"an input must not lie in an archive, {name} does; unpack it")
    system, path = _remote(name)
    with _readable(name):
        if system.isdir(path):
            below = system.find(path, detail=True)
            found = {key: below[key] for key in below if all(map(_is_visible, key.removeprefix(path).split("/")))}
        elif glob.has_magic(path):
            found = system.glob(path, detail=True)
        else:
            found = {path: system.info(path)}
    for key in sorted(found):
        if found[key]["type"] == "file":
            yield system.unstrip_protocol(key), int(found[key]["size"] or 0)


def _remote(name: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    try:
        from fsspec.core import url_to_fs

        system, path = url_to_fs(name)
    except Exception as error:  # noqa: BLE001 - each package behind fsspec has its own errors
        raise ConfigError(f"an address must be one that fsspec can open, {name} is not: {error}") from None
    return system, path
