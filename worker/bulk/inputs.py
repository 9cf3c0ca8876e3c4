"""What the input consists of: paths, globs, folders, addresses and standard input become an ordered list of sources."""

import glob
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
# A file is told by its length and so many bytes at both ends: reading all of it would double the reading.
END_BYTES = 65_536
KNOWN = "known are .jsonl, .csv, .tsv, .parquet and .txt (with .gz, .zst or .bz2 behind), folders, and - for JSONL"


@dataclass(frozen=True, slots=True)
class Source:
    """A file, standard input, or text files that count as one source with a row for each.

    `size` is in bytes, 0 where it cannot be known; `files` are the names and sizes of those of the kind "texts".
    """

    name: str
    kind: Kind
    size: int
    compression: str | None = None
    files: tuple[tuple[str, int], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The files of which it consists."""
        return tuple(name for name, _ in self.files) or (self.name,)


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """The sources of the inputs in their order, those of a glob or folder by name; none twice.

    Raises:
        ConfigError: If one names nothing, or something that cannot be read.
    """
    found: dict[str, Source] = {}
    for name in inputs:
        sources = _sources(name)
        if not sources:
            raise ConfigError(f"an input must name files, {name} names none; {KNOWN}")
        for source in sources:
            found.setdefault(source.name, source)
    for source in found.values():
        _refuse_unwritable(source)
    return list(found.values())


def open_file(name: str) -> BinaryIO:
    """Open a file, here or anywhere that fsspec reaches.

    Raises:
        OSError: If that fails.
    """
    if name == STANDARD_INPUT:
        return sys.stdin.buffer
    if is_remote(name):
        system, path = _remote(name)
        return cast(BinaryIO, system.open(path, "rb"))
    return Path(name).open("rb")


def digest(source: Source, length: int) -> str | None:
    """What tells whether the first `length` bytes of a source are what they were; None for standard input.

    Raises:
        ConfigError: If the source cannot be read.
    """
    if source.name == STANDARD_INPUT:
        return None
    if source.kind == "texts":
        return hashlib.sha256(repr(source.files[:length]).encode()).hexdigest()
    try:
        with open_file(source.name) as file:
            head = file.read(min(length, END_BYTES))
            file.seek(max(0, length - END_BYTES))
            return hashlib.sha256(head + file.read(min(length, END_BYTES))).hexdigest()
    except OSError as error:
        raise ConfigError(f"an input must be readable, {source.name} is not: {error.strerror or error}") from None


def length_of(source: Source) -> int:
    """What a source has grown by if it has grown: files of the kind "texts", bytes of any other."""
    return len(source.files) if source.kind == "texts" else source.size


def is_remote(name: str) -> bool:
    """Whether a name is an address for fsspec."""
    return "://" in name


def _refuse_unwritable(source: Source) -> None:
    """Every row of the output names its source, so the name must be one that can be written."""
    for name in source.names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ConfigError(f"an input's name must be UTF-8, was: {name!a}; rename it") from None


def _sources(name: str) -> list[Source]:
    if name == STANDARD_INPUT:
        return [Source(name, "jsonl", 0)]
    if is_remote(name):
        return _of_files(name, list(_remote_files(name)))
    if Path(name).is_dir():
        return _of_folder(Path(name))
    names = [name] if Path(name).exists() else sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - a pattern may be absolute
    files: list[tuple[str, int]] = []
    sources: list[Source] = []
    for path in map(Path, names):
        if path.is_dir():
            sources += _of_folder(path)
        else:
            files.append((str(path), path.stat().st_size))
    return sources + _of_files(name, files)


def _of_folder(folder: Path) -> list[Source]:
    """A data set of Hugging Face's `save_to_disk`, one split of it or all; otherwise the files that can be read."""
    if (folder / "dataset_dict.json").is_file():
        splits = _json(folder / "dataset_dict.json")["splits"]
        return [source for split in splits for source in _of_folder(folder / str(split))]
    if (folder / "state.json").is_file():
        names = [folder / str(file["filename"]) for file in _json(folder / "state.json")["_data_files"]]
        return [Source(str(name), "arrow", name.stat().st_size) for name in names]
    files = [(str(path), path.stat().st_size) for path in sorted(folder.rglob("*")) if path.is_file()]
    return _of_files(str(folder), files)


def _of_files(name: str, files: Sequence[tuple[str, int]]) -> list[Source]:
    """One source for each file, and one for all texts. Files of other kinds are passed over unless named themselves."""
    sources: list[Source] = []
    texts: list[tuple[str, int]] = []
    explicit = [Path(path).name for path, _ in files] == [Path(name).name]
    for path, size in files:
        parts = Path(path).suffixes
        compression = COMPRESSIONS.get(parts[-1]) if parts else None
        stem = parts[:-1] if compression else parts
        kind = KINDS.get(stem[-1]) if stem else None
        if kind == "texts" and not compression:
            texts.append((path, size))
        elif kind in ("jsonl", "csv", "tsv") or (kind and not compression and kind != "texts"):
            sources.append(Source(path, kind, size, compression))
        elif explicit:
            raise ConfigError(f"an input's name must say what it is, {path} does not; {KNOWN}")
    if texts:
        sources.append(Source(name, "texts", sum(size for _, size in texts), None, tuple(texts)))
    return sources


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"a Hugging Face data set needs its {path.name}, {path} is broken: {error}") from None


def _remote_files(name: str) -> Iterator[tuple[str, int]]:
    system, path = _remote(name)
    try:
        if system.isdir(path):
            found = system.find(path, detail=True)
        elif glob.has_magic(path):
            found = system.glob(path, detail=True)
        else:
            found = {path: system.info(path)}
    except OSError as error:
        raise ConfigError(f"an input must be readable, {name} is not: {error}") from None
    for key in sorted(found):
        if found[key]["type"] == "file":
            yield system.unstrip_protocol(key), int(found[key]["size"] or 0)


def _remote(name: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    try:
        from fsspec.core import url_to_fs

        system, path = url_to_fs(name)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"an address must be one that fsspec can open, {name} is not: {error}") from None
    return system, path
