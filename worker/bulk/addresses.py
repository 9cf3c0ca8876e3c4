"""Addresses that fsspec opens: which files they name, and how they are shown without what must stay secret.

An address may hold a password, or a token in its query. It is opened with them, and shown, written and told without.
"""

import glob
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import dropwhile
from typing import Any, BinaryIO, Self

from gpner.errors import ConfigError

# Only these have a query: elsewhere a question mark is a letter like others, or stands for any letter.
HTTP = ("http", "https")
# In the words of an error, which may have an address in another form than the user gave it.
QUERY = re.compile(r"(https?://[^\s?]*)\?\S*", re.IGNORECASE)
USER = re.compile(r"(?<=http://)[^/\s]*@|(?<=https://)[^/\s]*@|(?<=://)[^/\s]*:[^/\s]*@", re.IGNORECASE)
# Stands between an archive, or a cache, and what it lies in.
CHAIN = "::"
READ_BYTES = 1 << 20


class Unreachable(OSError):
    """An address cannot be read; the message names it, without its secrets."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file behind an address.

    Attributes:
        address: The address, with its secrets.
        size: In bytes.
    """

    address: str = field(repr=False)
    size: int
    _system: Any = field(repr=False)
    _path: str = field(repr=False)

    def open(self) -> BinaryIO:
        """Open it.

        Raises:
            OSError: If that fails.
        """
        with reaching(self.address):
            return io.BufferedReader(_Stream(self._system.open(self._path, "rb"), self.address))

    def measured(self) -> Self:
        """The same with its size, for one of which a listing tells none; where nothing tells it, the file is read.

        Raises:
            OSError: If that fails.
        """
        with reaching(self.address):
            size = self._system.info(self._path)["size"]
        if not size:
            with self.open() as content:
                size = sum(map(len, iter(lambda: content.read(READ_BYTES), b"")))
        return replace(self, size=int(size))


class _Stream(io.RawIOBase):
    """A file that fsspec has opened; whatever goes wrong with it is an OSError that names its address."""

    def __init__(self, file: Any, address: str) -> None:
        self._file = file
        self._address = address

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with reaching(self._address):
            content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place. What can only be read, as fsspec has files of servers that send no parts, is read up to it."""
        with reaching(self._address):
            try:
                self._file.seek(place, whence)
            except ValueError:
                if whence != io.SEEK_SET or place < self.tell():
                    raise
                while (left := place - self.tell()) and self._file.read(min(left, READ_BYTES)):
                    pass
            return self.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def is_remote(name: str) -> bool:
    """Whether a name is an address for fsspec."""
    return "://" in name


def without_local_protocol(name: str) -> str:
    """The path that an address names if it is one of this machine's files; any other name as it is."""
    protocol, found, path = name.partition("://")
    if not found:
        return name
    from fsspec.implementations.local import LocalFileSystem

    if protocol not in LocalFileSystem.protocol:
        return name
    return path.removeprefix("localhost") if path.startswith("localhost/") else path


def innermost(name: str) -> str:
    """What names the file itself: of an archive, in front of where that lies."""
    return next(filter(is_remote, name.split(CHAIN)), name)


def shown(address: str) -> str:
    """An address as it may be read by others: without passwords, and without the query of http."""
    return CHAIN.join(map(_without_secrets, address.split(CHAIN)))


def _without_secrets(part: str) -> str:
    """One part of a chain, without what may be secret; not by `urlsplit`, as it may be no well-formed address."""
    protocol, found, rest = part.partition("://")
    if not found:
        return part
    is_http = protocol.lower() in HTTP
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, _, _ = host.rpartition("@")
    if ":" in user or (user and is_http):
        rest = rest[len(user) + 1 :]
    elif not user and ":" in host and not host.rpartition(":")[2].isdigit():  # no port: a password with a slash in it
        rest = rest.rpartition("@")[2]
    if is_http:
        rest = rest.partition("?")[0]
    return f"{protocol}://{rest}"


def remote_files(address: str, *, names_file: bool) -> Iterator[Remote]:
    """The files that an address names: one, those of a folder, a glob or an archive, in the order of their names.

    Args:
        address: The address.
        names_file: Whether its name is one of a file. That of a web page is asked for links otherwise.

    Raises:
        ConfigError: If it is none that fsspec knows.
        OSError: If it cannot be reached.
    """
    system, path = _remote(address)
    with reaching(address):
        if names_file and path.partition("://")[0] in HTTP:
            found = {path: system.info(path)}
        elif system.isdir(path):
            below = system.find(path, detail=True)
            found = {key: below[key] for key in below if _is_visible(key.removeprefix(path))}
        elif glob.has_magic(shown(path)):
            matches = system.glob(path, detail=True)
            found = {key: matches[key] for key in matches if _is_visible(key) or not _is_visible(path)}
        else:
            found = {path: system.info(path)}
    for key in sorted(found):
        if found[key]["type"] == "file":
            file = Remote(_address(address, system, key), found[key]["size"] or 0, system, key)
            yield file if file.size else file.measured()


@contextmanager
def reaching(address: str) -> Iterator[None]:
    """Turn whatever the packages behind fsspec raise for an address into an OSError that names it."""
    try:
        yield
    except Exception as error:
        if not is_remote(address) or isinstance(error, (ConfigError, Unreachable)):
            raise
        words = _words(error, address)
        raise Unreachable(f"{shown(address)} cannot be reached: {type(error).__name__}: {words}") from None


def _remote(address: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    try:
        from fsspec.core import url_to_fs

        system, path = url_to_fs(address)
    except Exception as error:  # noqa: BLE001 - each package behind fsspec has its own errors
        words = _words(error, address)
        raise ConfigError(f"an address must be one that fsspec can open, {shown(address)} is not: {words}") from None
    return system, path


def _address(named: str, system: Any, path: str) -> str:
    """The address of one file that another address names: in the same archive, and without a cache in front."""
    first, *rest = dropwhile(lambda part: not is_remote(part), named.split(CHAIN))
    if rest:
        return CHAIN.join([f"{first.partition('://')[0]}://{path}", *rest])
    return str(system.unstrip_protocol(path))


def _is_visible(path: str) -> bool:
    return not any(name.startswith(".") for name in path.split("/"))


def _words(error: Exception, address: str) -> str:
    """What an error says of an address, without its secrets."""
    words = str(error)
    for part in address.split(CHAIN):
        words = words.replace(part, _without_secrets(part))
    return USER.sub("", QUERY.sub(r"\1", words))
