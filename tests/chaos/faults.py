"""The faults: each function does one fault once, at a service at work, and returns when it is over or undone."""

import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from redis import Redis
from redis.exceptions import TimeoutError as RedisTimeoutError

from tests.chaos.producer import Producer
from tests.chaos.service import LEASE_SECONDS, PATIENCE_SECONDS, Service
from tests.chaos.sites import (
    REDIS_CLOCK,
    WORKER_CLOCK,
    SiteMaker,
    behind_a_link,
    cut_link,
    mend_link,
    on_a_small_disk,
    plain,
    set_clock,
    with_movable_clocks,
)
from tests.workers import wait_until
from worker.connection import connect

LONGEST_OUTAGE_SECONDS = 1.0
PAUSE_MILLISECONDS = 1500
CLOCK_SECONDS = 3600
SHORT_REFUSAL_SECONDS, LONG_REFUSAL_SECONDS = 2.0, 12.0


@dataclass(frozen=True)
class Scene:
    """What a fault may touch."""

    service: Service
    producer: Producer
    random: Random
    long: bool


@dataclass(frozen=True)
class Fault:
    """One row of the table.

    Attributes:
        name: What the table calls it.
        act: Does it once.
        short: How often it is done in the short suite.
        long: How often in each of the four runs of the long one.
        exits: The exit codes of workers that it explains; no worker may end with another.
        site: Where Redis must run for it.
        settings: What the workers are told beyond the settings of the suite.
        keeps_calls: Whether no call may be lost by it. A call that Redis hands out just when the worker dies or its
            connection breaks is in nobody's hands: kombu notes it only then.
    """

    name: str
    act: Callable[[Scene], None]
    short: int
    long: int
    exits: frozenset[int] = frozenset()
    site: SiteMaker = plain
    settings: Mapping[str, object] = field(default_factory=dict)
    keeps_calls: bool = False


def kill_worker(scene: Scene) -> None:
    """SIGKILL: most often at work, and sometimes at whatever moment of its life, its start too."""
    workers = scene.service.workers
    worker = workers.one(scene.random) if scene.random.random() < 0.8 else scene.random.choice(workers.all())
    worker.signal(signal.SIGKILL)
    worker.wait()


def drain_worker(scene: Scene) -> None:
    """SIGTERM; the next worker starts at once."""
    worker = scene.service.workers.one(scene.random)
    worker.signal(signal.SIGTERM)
    worker.wait()


def suspend_worker(scene: Scene) -> None:
    """SIGSTOP until the others have taken over what it held, or the lease is over where there is none; then SIGCONT."""
    service = scene.service
    worker = service.workers.one(scene.random)
    wait_until(lambda: service.held_by(worker), what="a document for the worker to be suspended")
    worker.signal(signal.SIGSTOP)
    try:
        if len(service.workers.all()) > 1:
            wait_until(lambda: not service.held_by(worker), PATIENCE_SECONDS, "a takeover")
        else:
            time.sleep(2 * LEASE_SECONDS)
        # Sometimes it comes back before the others have committed what was its own, and sometimes after.
        time.sleep(scene.random.uniform(0, LEASE_SECONDS))
    finally:
        worker.signal(signal.SIGCONT)


def stop_redis(scene: Scene) -> None:
    """SIGTERM, and a new start."""
    _restart_redis(scene, signal.SIGTERM)


def kill_redis(scene: Scene) -> None:
    """SIGKILL, and a new start."""
    _restart_redis(scene, signal.SIGKILL)


def _restart_redis(scene: Scene, number: signal.Signals) -> None:
    scene.service.redis.stop(number)
    time.sleep(scene.random.uniform(0, LONGEST_OUTAGE_SECONDS))
    scene.service.redis.start()


def cut_the_power(scene: Scene) -> None:
    """SIGKILL to Redis and all workers; the workers are started before Redis is back."""
    for worker in scene.service.workers.all():
        worker.signal(signal.SIGKILL)
    kill_redis(scene)


def kill_connections(scene: Scene) -> None:
    """CLIENT KILL of every connection but the suite's own view of Redis."""
    for kind in ("normal", "pubsub"):
        scene.service.store.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


def pause_redis(scene: Scene) -> None:
    """CLIENT PAUSE: Redis is there, and answers nobody for a while."""
    scene.service.store.client_pause(PAUSE_MILLISECONDS, all=True)


def cut_connections(scene: Scene) -> None:
    """Half-open connections: packets vanish without a word until our clients stop believing in theirs."""
    with connect(scene.service.settings.redis_url) as connection:
        connection.ping()
        cut_link()
        try:
            wait_until(lambda: not _answers(connection), what="the end of a cut connection")
        finally:
            mend_link()


def _answers(connection: Redis) -> bool:
    with suppress(RedisTimeoutError):
        return bool(connection.ping())
    return False


def fill_memory(scene: Scene) -> None:
    """Redis has no memory left for seconds, and meanwhile a worker dies or all connections break."""
    store = scene.service.store
    store.config_set("maxmemory", store.info("memory")["used_memory"] // 2)
    try:
        _wait_for_a_refusal(scene)
        scene.random.choice((kill_worker, kill_connections))(scene)
        time.sleep(LONG_REFUSAL_SECONDS if scene.long else SHORT_REFUSAL_SECONDS)
    finally:
        store.config_set("maxmemory", 0)


def fill_disk(scene: Scene) -> None:
    """The disk is full: with appendfsync always Redis ends itself; it is started when there is room again."""
    redis = scene.service.redis
    _fill(scene)
    redis.wait()
    _filler(scene).unlink()
    redis.start()


def fill_disk_every_second(scene: Scene) -> None:
    """The disk is full: with appendfsync everysec Redis refuses whatever writes, until there is room again."""
    store = scene.service.store
    store.config_set("appendfsync", "everysec")
    try:
        _fill(scene)
        _wait_for_a_refusal(scene)
    finally:
        _filler(scene).unlink()
    scene.service.wait_for_progress()
    store.config_set("appendfsync", "always")


def move_clocks(scene: Scene) -> None:
    """A worker dies, and the clocks of Redis, of the workers or of both jump, at most an hour off the truth."""
    names = scene.random.choice([[REDIS_CLOCK], [WORKER_CLOCK], [REDIS_CLOCK, WORKER_CLOCK]])
    seconds = scene.random.randint(-CLOCK_SECONDS, CLOCK_SECONDS)
    kill_worker(scene)
    for name in names:
        set_clock(scene.service.redis.folder, name, seconds)
    if REDIS_CLOCK in names:
        assert abs(scene.service.store.time()[0] - time.time() - seconds) < 60, "the clock of Redis must have moved"
    scene.service.wait_for_progress()


def poison(scene: Scene) -> None:
    """Among the good documents one that crashes its worker, one that hangs it, and one on which the engine fails."""
    ids = scene.producer.submit(["NOBODY survives !crash", "NOBODY waits for !hang"], "TooManyDeliveries")
    ids += scene.producer.submit(["NOBODY can read !raise"], "ValueError")
    store, keys = scene.service.store, scene.service.keys
    wait_until(lambda: store.exists(*map(keys.result, ids)) == len(ids), 2 * PATIENCE_SECONDS, "the burial of poison")


def _wait_for_a_refusal(scene: Scene) -> None:
    wait_until(lambda: scene.producer.offer() == "refused", PATIENCE_SECONDS, "a refusal")


def _filler(scene: Scene) -> Path:
    return scene.service.redis.folder / "filler"


def _fill(scene: Scene) -> None:
    with _filler(scene).open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))


_KILLED = frozenset({-signal.SIGKILL})
# A worker that is started while Redis is away says so and ends with 2.
_POWERLESS = frozenset({-signal.SIGKILL, 2})
_POISONED = frozenset({-signal.SIGSEGV, 70})
FAULTS = (
    Fault("worker killed", kill_worker, 2, 26, _KILLED),
    Fault("worker suspended", suspend_worker, 1, 6, keeps_calls=True),
    Fault("worker drained", drain_worker, 2, 8, frozenset({0}), keeps_calls=True),
    Fault("Redis stopped", stop_redis, 1, 5),
    Fault("Redis killed", kill_redis, 1, 5),
    Fault("power cut", cut_the_power, 1, 3, _POWERLESS),
    Fault("connections killed", kill_connections, 2, 15),
    Fault("Redis paused", pause_redis, 1, 4, keeps_calls=True),
    Fault("half-open connections", cut_connections, 1, 2, site=behind_a_link),
    Fault("memory full", fill_memory, 2, 4, _KILLED),
    Fault("disk full, fsync always", fill_disk, 1, 3, site=on_a_small_disk),
    Fault("disk full, fsync every second", fill_disk_every_second, 1, 3, site=on_a_small_disk, keeps_calls=True),
    Fault("clock moved", move_clocks, 2, 6, _KILLED, with_movable_clocks),
    # The deliveries after which a document is buried are those of real life here.
    Fault("poison", poison, 1, 2, _POISONED, settings={"max_deliveries": 5, "forward_deadline_seconds": 1.0}),
)
