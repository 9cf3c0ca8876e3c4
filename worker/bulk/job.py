"""What a bulk job remembers: what it was begun with, and how far it is. In the folder `.job` of its output.

`job.json` holds the options, the model and the input; the manifests of finished shards lie beside it.
"""

import fcntl
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from gpner.errors import ConfigError
from worker.bulk.files import read_object, sync, write_object
from worker.bulk.inputs import JOB_FOLDER, Source, begins_a_line, digest, length_of
from worker.bulk.manifests import AFRESH, RESTORE, Manifest, read_manifests, refusing_broken
from worker.bulk.reading import Part
from worker.bulk.rows import Position
from worker.bulk.tables import Types, find_types, types_from_json, types_to_json

SETTINGS = {"max_document_characters": "GPNER_MAX_DOCUMENT_CHARACTERS"}
# What job.json holds, and the input's parts.
SAVED = ("name", "options", "types", "model", "retried_sources")


@dataclass(frozen=True, slots=True)
class KnownPart:
    """A part of the input as the job knows it; length and digest are of what the source was when last looked at."""

    name: str
    length: int
    digest: str | None
    first: int = 0


@dataclass
class Job:
    """A job in its folder, locked against other processes as long as this one lives.

    Attributes:
        folder: The output folder.
        name: Tells jobs apart that share a Redis.
        options: What the output depends on besides input and model.
        types: Of kept columns in Parquet, as JSON has them: whatever the input grows by, all shards have the same.
        model: Name and content hash of the model; None before the first answer.
        known: The input's parts, in the order in which they are read.
        retried_sources: Sources that are read on from where they ended, and the number of shards there were then: had
            they broken there, that is no failure any more.
        manifests: Of the finished shards.
        parts: The input's parts as they are now, in the order of `known`.
    """

    folder: Path
    name: str
    options: dict[str, Any]
    types: dict[str, Any] = field(default_factory=dict)
    model: dict[str, str] | None = None
    known: list[KnownPart] = field(default_factory=list)
    retried_sources: dict[str, int] = field(default_factory=dict)
    manifests: list[Manifest] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    _lock: IO[str] | None = None

    @classmethod
    def open(cls, folder: Path, options: dict[str, Any], sources: Sequence[Source], *, retry: bool = False) -> Self:
        """Make ready to begin a job, or to go on with it; before `begin` nothing is written.

        Args:
            folder: The output folder.
            options: What the output depends on besides input and model.
            sources: The input.
            retry: Whether only what failed is tried again: what the input has grown by is left to another run.

        Raises:
            ConfigError: If the folder holds something else, another process works in it, or what the job was begun
                with has changed; says what.
        """
        if not _was_begun(folder):
            _refuse_foreign(folder)
            _refuse_forgotten(folder)
            if retry:
                raise ConfigError(f"--retry-failures needs the folder of a job as --output, {folder} is none")
            job = cls(folder, uuid.uuid4().hex, options, types_to_json(_types(options, sources)))
            job._take(sources, grow=True)
            return job
        lock = _lock(folder)
        try:
            job = cls(folder, **_read(folder))
            job._refuse_other(options)
            job.manifests = read_manifests(folder / JOB_FOLDER)
            job._take(sources, grow=not retry)
        except BaseException:
            lock.close()
            raise
        job._lock = lock  # held until `close`
        return job

    def begin(self) -> None:
        """Write down what the job is.

        Raises:
            ConfigError: If the folder cannot be written, or another process has begun a job in it meanwhile.
        """
        if self._lock is None:
            self._lock = _lock(self.folder)
            if _was_begun(self.folder):
                raise ConfigError(f"{self.folder} must be new, another job was begun in it just now; wait for its end")
        self.save()
        self._drop_unfinished()

    @property
    def position(self) -> Position:
        """How far the input is read, as far as shards are finished."""
        return max((manifest.end for manifest in self.manifests), key=_order, default=Position())

    @property
    def kept(self) -> Types:
        """The types of kept columns; none if any value can be written."""
        return types_from_json(self.types)

    @property
    def ended(self) -> dict[int, Position]:
        """How far parts are read that have ended, by number."""
        return {number: position for manifest in self.manifests for number, position in manifest.ended.items()}

    @property
    def items(self) -> int:
        """Rows that finished shards cover, retried ones apart."""
        return sum(manifest.items for manifest in self.manifests if manifest.retried is None)

    def file(self, name: str) -> Path:
        """A file of its own folder."""
        return self.folder / JOB_FOLDER / name

    def save(self) -> None:
        """Write job.json."""
        content = {name: getattr(self, name) for name in SAVED} | {"known": list(map(asdict, self.known))}
        text = json.dumps(content, indent=1, ensure_ascii=False).encode("utf-8", "surrogateescape")
        write_object(self.file("job.json"), text)

    def finish(self, manifest: Manifest) -> None:
        """Count a shard as finished; its file lies there already."""
        write_object(self.file(f"part-{manifest.number:05d}.json"), manifest.to_json())
        self.manifests.append(manifest)

    def check_model(self, name: str, revision: str) -> None:
        """Note the model at the first answer; afterwards it must stay the same.

        Raises:
            ConfigError: If it is another.
        """
        model = {"name": name, "revision": revision}
        if self.model is None:
            self.model = model
            self.save()
        elif self.model != model:
            raise ConfigError(
                f"all of {self.folder} must come from one model, it was begun with {_words(self.model)} "
                f"and now answers come from {_words(model)}; serve the first again, or {AFRESH}"
            )

    def broken_part(self, name: str) -> int:
        """The number of the part in which a source broke."""
        return max(number for number, part in enumerate(self.known) if part.name == name)

    def note_retried(self, name: str, shards: int) -> None:
        """A source that had broken before there were so many shards was read on: that is no failure any more."""
        self.retried_sources[name] = shards
        self.save()

    def close(self) -> None:
        """Let others work in the folder."""
        if self._lock is not None:
            self._lock.close()

    def _drop_unfinished(self) -> None:
        """Delete what a kill has left of a shard without a manifest: its number may be another one's this time."""
        name = f"part-{len(self.manifests):05d}"
        for path in (*self.folder.glob(f"{name}.*"), *self.file("").glob(f"{name}.*")):
            path.unlink()

    def _refuse_other(self, options: dict[str, Any]) -> None:
        for name, value in options.items():
            if self.options.get(name) != value:
                began, now = json.dumps(self.options.get(name)), json.dumps(value)
                raise ConfigError(
                    f"the job in {self.folder} was begun with {_named(name)} {began}, not {now}; {AFRESH}"
                )

    def _take(self, sources: Sequence[Source], *, grow: bool) -> None:
        """Compare the input with what it was; what was added to it stands at the end, if it may grow."""
        given = {source.name: source for source in sources}
        newest = {part.name: number for number, part in enumerate(self.known)}
        for name in newest:
            if name not in given:
                raise ConfigError(
                    f"the job in {self.folder} was begun with the input {name}, it is not given; {AFRESH}"
                )
        self.parts = [Part(given[part.name], part.first) for part in self.known]
        for number in newest.values():
            self._compare(number, self.parts[number].source, grow=grow)
        for source in sources:
            if grow and source.name not in newest:
                self._add(source, 0)

    def _compare(self, number: int, source: Source, *, grow: bool) -> None:
        part = self.known[number]
        length = length_of(source)
        if length < part.length or digest(source, part.length) != part.digest:
            raise ConfigError(
                f"the input of {self.folder} may only have grown, {source.name} has changed "
                f"(was {part.length} long, is {length}); {AFRESH}"
            )
        if length == part.length or not grow:
            return
        reached = self.position if number == self.position.source else self.ended.get(number, Position())
        if reached.unended and not begins_a_line(source, part.length):
            raise ConfigError(
                f"the input of {self.folder} may only have grown by whole lines, {source.name} has grown within its "
                f"last line, which was read without its end; {AFRESH}"
            )
        if number < self.position.source:
            self._add(source, reached.items)
            self.retried_sources[source.name] = len(self.manifests)
        else:
            self.known[number] = _known(source, part.first)

    def _add(self, source: Source, first: int) -> None:
        self.known.append(_known(source, first))
        self.parts.append(Part(source, first))


def _types(options: dict[str, Any], sources: Sequence[Source]) -> Types:
    return find_types(sources, options["keep"]) if options["format"] == "parquet" else {}


def _was_begun(folder: Path) -> bool:
    return (folder / JOB_FOLDER / "job.json").exists()


def _named(option: str) -> str:
    """What the user calls an option: what is no flag is a setting."""
    return SETTINGS.get(option) or f"--{option.replace('_', '-')}"


def _refuse_foreign(folder: Path) -> None:
    try:
        if folder.exists() and any(folder.iterdir()) and not (folder / JOB_FOLDER).is_dir():
            raise ConfigError(f"--output must be new, empty, or the folder of a bulk job, {folder} is another's")
    except OSError as error:
        raise ConfigError(f"--output must be a folder that can be written, {folder} is not: {error.strerror}") from None


def _refuse_forgotten(folder: Path) -> None:
    """A job that has finished shards has a job.json: without it they would be taken for those of a new job."""
    left = [path for path in (folder / JOB_FOLDER).glob("*") if path.name.partition(".")[0] not in ("lock", "job")]
    if left:
        path = folder / JOB_FOLDER / "job.json"
        raise ConfigError(f"{path} must be there, as {left[0].name} beside it is, it is missing; {RESTORE}")


def _lock(folder: Path) -> IO[str]:
    _refuse_foreign(folder)
    try:
        (folder / JOB_FOLDER).mkdir(parents=True, exist_ok=True)
        sync(folder)
        lock = (folder / JOB_FOLDER / "lock").open("a", encoding="ascii")
    except OSError as error:
        raise ConfigError(f"--output must be a folder that can be written, {folder} is not: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise ConfigError(f"one process at a time may work in {folder}, another one does; wait for its end") from None
    return lock


def _read(folder: Path) -> dict[str, Any]:
    """What job.json holds, parts of the input as such."""
    path = folder / JOB_FOLDER / "job.json"
    with refusing_broken(path):
        found: dict[str, Any] = json.loads(read_object(path).decode("utf-8", "surrogateescape"))
        return {name: found[name] for name in SAVED} | {"known": [KnownPart(**part) for part in found["known"]]}


def _known(source: Source, first: int) -> KnownPart:
    length = length_of(source)
    return KnownPart(source.name, length, digest(source, length), first)


def _order(position: Position) -> tuple[int, int]:
    return position.source, position.items


def _words(model: Mapping[str, str]) -> str:
    return f"{model['name'] or 'an unnamed one'} ({model['revision'] or 'of no revision'})"
