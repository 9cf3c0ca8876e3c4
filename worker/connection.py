"""One way to connect to Redis, and one way to say what is wrong with it."""

from collections.abc import Iterator
from contextlib import contextmanager

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gpner.errors import ServiceError
from worker.settings import RedisUrl

# Longer than any blocking read here (a few seconds), short against a lease: it bounds how long a half-open connection,
# one that was cut without a word, is believed.
SOCKET_TIMEOUT_SECONDS = 10.0
CONNECT_TIMEOUT_SECONDS = 5.0


def connect(url: RedisUrl) -> redis.Redis:
    """A pool of connections, safe for threads; nothing is sent before the first command.

    The library's own retries are off: repeating a command whose answer was lost could add a document twice, so each
    caller decides. RESP2 because Redis 6.2 and 7 and every version of redis-py answer alike in it.

    Raises:
        ServiceError: If the address cannot be understood.
    """
    try:
        return redis.Redis.from_url(
            url.get_secret_value(),
            protocol=2,
            socket_timeout=SOCKET_TIMEOUT_SECONDS,
            socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError:
        # The library's own words may quote a part of the password.
        raise ServiceError(
            f"GPNER_REDIS_URL must be an address of Redis, was: {url}; "
            "percent-encode special characters of the password"
        ) from None


@contextmanager
def explaining(url: RedisUrl) -> Iterator[None]:
    """Turn every error of redis-py into a `ServiceError` that says what to do, with the password hidden."""
    try:
        yield
    except redis.BusyLoadingError as error:
        raise ServiceError(f"Redis at {url} is still loading its data; wait until it answers PING") from error
    except (redis.AuthenticationError, redis.exceptions.AuthorizationError) as error:
        raise ServiceError(f"Redis at {url} refused the login; check user and password in GPNER_REDIS_URL") from error
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise ServiceError(f"cannot reach Redis at {url}: start it or set GPNER_REDIS_URL") from error
    except redis.RedisError as error:
        raise ServiceError(f"Redis at {url} refused a command: {error}") from error
