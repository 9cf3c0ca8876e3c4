"""Addresses that name sentinels instead of Redis: which server is the master is asked anew for every connection.

`redis+sentinel://user:password@host:port,host:port,host:port/master/database`
"""

from dataclasses import dataclass
from typing import Any

from redis.connection import parse_url
from redis.sentinel import Sentinel

from worker.settings import SENTINEL_SCHEME

DEFAULT_PORT = 26379
# A sentinel answers from memory. The next one is asked after so long, for a connection's own patience is 10 s.
PATIENCE_SECONDS = 1.0
# Options of connections to sentinels. Celery shows them in JSON, so there is nothing else in them.
OF_SENTINELS: dict[str, Any] = {
    "protocol": 2,
    "retry": None,
    "socket_timeout": PATIENCE_SECONDS,
    "socket_connect_timeout": PATIENCE_SECONDS,
}


@dataclass(frozen=True)
class SentinelAddress:
    """What such an address says.

    `options` are those of a connection to the master, under redis-py's names: user, password, database.
    """

    hosts: tuple[tuple[str, int], ...]
    master: str
    options: dict[str, Any]

    def sentinel(self) -> Sentinel:
        """A client of the sentinels; nothing is sent before the first question."""
        return Sentinel(self.hosts, sentinel_kwargs=OF_SENTINELS)  # type: ignore[no-untyped-call]  # redis-py has none


def sentinel_address(address: str) -> SentinelAddress | None:
    """What the address says if it names sentinels, otherwise None."""
    if not address.startswith(SENTINEL_SCHEME):
        return None
    login, at, place = address.removeprefix(SENTINEL_SCHEME).rpartition("@")
    hosts, _, rest = place.partition("/")
    master, _, database = rest.partition("/")
    options = parse_url(f"redis://{login}{at}localhost/{database}")  # type: ignore[no-untyped-call]  # redis-py has none
    del options["host"]
    return SentinelAddress(tuple(map(_host, hosts.split(","))), master, options)


def _host(text: str) -> tuple[str, int]:
    name, _, port = text.partition(":")
    return name, int(port or DEFAULT_PORT)
