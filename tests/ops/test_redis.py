"""The Redis of ops/redis, started again: what it had accepted is there."""

from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from tests.secure_redis import SecureRedis, secure_server
from worker.client import Client
from worker.settings import Settings

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(secure_server() is None, reason="no redis-server of version 7 or newer with TLS on PATH"),
]


def test_documents_survive_a_restart_of_a_redis_whose_default_user_is_off(settings: Settings, tmp_path: Path) -> None:
    """A submit is one step, and Redis reads the steps of its file as the user `default`."""
    with SecureRedis(tmp_path) as server:
        of_producer = Settings(redis_url=server.url("producer"))
        with Client(of_producer) as client:
            client.submit_many(["Ada met Babbage."] * 3)
            key = client.keys.stream("normal")
        server.stop()
        server.start()

        with server.connect("admin") as admin:
            assert admin.xlen(key) == 3


@pytest.mark.parametrize("password", [None, "", "anything"])
def test_nobody_can_be_the_user_default(tmp_path: Path, password: str | None) -> None:
    with SecureRedis(tmp_path) as server:
        options = {"ssl_ca_certs": str(server.ca), "username": None if password is None else "default"}
        with (
            Redis("127.0.0.1", server.port, ssl=True, password=password, protocol=2, **options) as anybody,
            pytest.raises(AuthenticationError),
        ):
            anybody.ping()
