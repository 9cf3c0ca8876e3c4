"""Addresses that fsspec opens: which files they name, and how they are shown without what must stay secret.

An address may hold a password, or a token in its query. It is opened with them, and shown, written and told without.
"""

import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from gpner.errors import ConfigError

# Of http alone, as a question mark is a letter like others elsewhere, or stands for any letter.
HTTP = ("http://", "https://")
QUERY = re.compile(r"(https?://[^\s?]*)\?\S*")
PASSWORD = re.compile(r"//[^/\s@]*:[^/\s@]*@")
# Stands between an archive, or a cache, and what it lies in.
CHAIN = "::"


class Unreachable(OSError):
    """An address cannot be read; the message names it, without its secrets."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file behind an address.

    Attributes:
        address: The address, with its secrets.
        size: In bytes, 0 where that cannot be known.
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
            return cast(BinaryIO, self._system.open(self._path, "rb"))


def is_remote(name: str) -> bool:
    """Whether a name is an address for fsspec."""
    return "://" in name


def innermost(name: str) -> str:
    """What names the file itself: of an archive, in front of where that lies."""
    return next(filter(is_remote, name.split(CHAIN)), name)


def shown(address: str) -> str:
    """An address as it may be read by others: without passwords, and without the query of http."""
    return CHAIN.join(map(_without_secrets, address.split(CHAIN)))


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
        if names_file and path.startswith(HTTP):
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
            yield Remote(_address(address, system, key), int(found[key]["size"] or 0), system, key)


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
    """The address of one file that another address names; it lies in the same archive."""
    first, *rest = named.split(CHAIN)
    if rest and is_remote(first):  # a cache, which may stand in front as well, has a name alone
        return CHAIN.join([f"{first.partition('://')[0]}://{path}", *rest])
    return str(system.unstrip_protocol(path))


def _is_visible(path: str) -> bool:
    return not any(name.startswith(".") for name in path.split("/"))


def _words(error: Exception, address: str) -> str:
    """What an error says of an address, without its secrets."""
    words = str(error)
    for part in address.split(CHAIN):
        words = words.replace(part, shown(part))
    return _without_secrets(words)


def _without_secrets(words: str) -> str:
    return PASSWORD.sub("//", QUERY.sub(r"\1", words))
