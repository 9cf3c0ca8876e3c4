"""What a bulk job remembers: what it was begun with, and how far it is. In the folder `.job` of its output.

`job.json` holds the options, the model and the input. Each finished shard has a manifest, one small file; the shard
counts from the moment that its manifest is there.
"""

import fcntl
import json
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import pydantic_core

from gpner.errors import ConfigError
from worker.bulk.files import sync, write_whole
from worker.bulk.inputs import Source, digest, length_of
from worker.bulk.reading import Part
from worker.bulk.rows import Position, Tally

FOLDER = ".job"
AFRESH = "give what it was begun with, or begin afresh with another --output"


@dataclass(frozen=True, slots=True)
class Manifest:
    """One finished shard.

    Attributes:
        number: Its number.
        items: Rows of the input that it covers, failed ones too.
        end: How far the input is read behind it.
        ended: Sources that ended in it, by number, with their items.
        tally: Its counts.
        sample_limit: As in `Sample`.
        retried: Source and row of failures that were tried again in it; None for an ordinary shard.
    """

    number: int
    items: int
    end: Position
    ended: Mapping[int, int]
    tally: Tally
    sample_limit: str
    retried: Sequence[tuple[str, int]] | None = None

    def to_json(self) -> bytes:
        """As it stands in its file."""
        return pydantic_core.to_json(
            {
                "number": self.number,
                "items": self.items,
                "end": asdict(self.end),
                "ended": list(self.ended.items()),
                **self.tally.to_dict(),
                "sample_limit": self.sample_limit,
                "retried": self.retried,
            }
        )

    @classmethod
    def from_json(cls, content: bytes) -> Self:
        """Read it back."""
        found = json.loads(content)
        retried = found["retried"]
        return cls(
            found["number"],
            found["items"],
            Position(**found["end"]),
            dict(found["ended"]),
            Tally.from_dict(found),
            found["sample_limit"],
            None if retried is None else [(source, row) for source, row in retried],
        )


@dataclass(frozen=True, slots=True)
class KnownPart:
    """A part of the input as the job knows it; length and digest are of what the source was when last looked at."""

    name: str
    kind: str
    compression: str | None
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
        model: Name and content hash of the model; None before the first answer.
        known: The input's parts, in the order in which they are read.
        retried_sources: Sources that are read on from where they ended, and the number of shards there were then: had
            they broken there, that is no failure any more.
        manifests: Of the finished shards.
    """

    folder: Path
    name: str
    options: dict[str, Any]
    model: dict[str, str] | None = None
    known: list[KnownPart] = field(default_factory=list)
    retried_sources: dict[str, int] = field(default_factory=dict)
    manifests: list[Manifest] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    _lock: IO[str] | None = None

    @classmethod
    def open(cls, folder: Path, options: dict[str, Any], sources: Sequence[Source]) -> Self:
        """Begin a job, or go on with it.

        Raises:
            ConfigError: If the folder holds something else, another process works in it, or what the job was begun
                with has changed; says what.
        """
        with ExitStack() as stack:
            lock = stack.enter_context(_lock(folder))
            if not (folder / FOLDER / "job.json").exists():
                job = cls(folder, uuid.uuid4().hex, options)
            else:
                job = cls(folder, **_read(folder / FOLDER / "job.json"))
                job.known = [KnownPart(**part) for part in job.known]  # type: ignore[arg-type]  # as JSON has them
                job._refuse_other(options)
                job.manifests = _manifests(folder)
            job._take(sources)
            job.save()
            job._drop_unfinished()
            job._lock = lock
            stack.pop_all()  # held until `close`
        return job

    @property
    def position(self) -> Position:
        """How far the input is read, as far as shards are finished."""
        return max((manifest.end for manifest in self.manifests), key=_order, default=Position())

    @property
    def items(self) -> int:
        """Rows that finished shards cover, retried ones apart."""
        return sum(manifest.items for manifest in self.manifests if manifest.retried is None)

    def file(self, name: str) -> Path:
        """A file of its own folder."""
        return self.folder / FOLDER / name

    def save(self) -> None:
        """Write job.json."""
        names = ("name", "options", "model", "retried_sources")
        content = {name: getattr(self, name) for name in names} | {"known": [asdict(part) for part in self.known]}
        text = json.dumps(content, indent=1, ensure_ascii=False).encode("utf-8", "surrogateescape")
        write_whole(self.file("job.json"), lambda file: file.write(text))

    def finish(self, manifest: Manifest) -> None:
        """Count a shard as finished; its file lies there already."""
        write_whole(self.file(f"part-{manifest.number:05d}.json"), lambda file: file.write(manifest.to_json()))
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

    def retry_source(self, name: str) -> None:
        """Read a source that broke once more, from where it broke."""
        index = max(number for number, part in enumerate(self.known) if part.name == name)
        self._add_rest(index, self.parts[index].source)
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
                flag = name.replace("_", "-")
                began = json.dumps(self.options.get(name))
                raise ConfigError(
                    f"the job in {self.folder} was begun with --{flag} {began}, not {json.dumps(value)}; {AFRESH}"
                )

    def _take(self, sources: Sequence[Source]) -> None:
        """Compare the input with what it was; what was added to it stands at the end."""
        given = {source.name: source for source in sources}
        newest = {part.name: number for number, part in enumerate(self.known)}
        for name in newest:
            if name not in given:
                raise ConfigError(
                    f"the job in {self.folder} was begun with the input {name}, it is not given; {AFRESH}"
                )
        self.parts = [Part(given[part.name], part.first) for part in self.known]
        for number in newest.values():
            self._compare(number, self.parts[number].source)
        for source in sources:
            if source.name not in newest:
                self._add(source, 0)

    def _compare(self, number: int, source: Source) -> None:
        part = self.known[number]
        length = length_of(source)
        if length < part.length or digest(source, part.length) != part.digest:
            raise ConfigError(
                f"the input of {self.folder} may only have grown, {source.name} has changed "
                f"(was {part.length} long, is {length}); {AFRESH}"
            )
        if length == part.length:
            return
        if number < self.position.source:
            self._add_rest(number, source)
        else:
            self.known[number] = _known(source, part.first)

    def _add_rest(self, number: int, source: Source) -> None:
        ended = {index: items for manifest in self.manifests for index, items in manifest.ended.items()}
        self._add(source, ended[number])
        self.retried_sources[source.name] = len(self.manifests)

    def _add(self, source: Source, first: int) -> None:
        self.known.append(_known(source, first))
        self.parts.append(Part(source, first))


def read_job(folder: Path) -> tuple[dict[str, Any] | None, list[Manifest]]:
    """What a folder's job was begun with and what is finished, without touching it; None if there is none."""
    if not (folder / FOLDER / "job.json").exists():
        return None, []
    return _read(folder / FOLDER / "job.json"), _manifests(folder)


def _lock(folder: Path) -> IO[str]:
    try:
        if folder.is_dir() and any(folder.iterdir()) and not (folder / FOLDER).is_dir():
            raise ConfigError(f"--output must be new, empty, or the folder of a bulk job, {folder} is another's")
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        sync(folder)
        lock = (folder / FOLDER / "lock").open("a", encoding="ascii")
    except OSError as error:
        raise ConfigError(f"--output must be a folder that can be written, {folder} is not: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise ConfigError(f"one process at a time may work in {folder}, another one does; wait for its end") from None
    return lock


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8", "surrogateescape"))
    except ValueError as error:
        raise ConfigError(f"{path} must be what a bulk job wrote, is not: {error}; {AFRESH}") from None
    return found


def _manifests(folder: Path) -> list[Manifest]:
    found = [Manifest.from_json(path.read_bytes()) for path in (folder / FOLDER).glob("part-*.json")]
    return sorted(found, key=lambda manifest: manifest.number)


def _known(source: Source, first: int) -> KnownPart:
    length = length_of(source)
    return KnownPart(source.name, source.kind, source.compression, length, digest(source, length), first)


def _order(position: Position) -> tuple[int, int]:
    return position.source, position.items


def _words(model: Mapping[str, str]) -> str:
    return f"{model['name'] or 'an unnamed one'} ({model['revision'] or 'of no revision'})"
