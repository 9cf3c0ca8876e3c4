"""One way to connect to Redis, and one way to say what is wrong with it."""

import re
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.credentials import CredentialProvider
from redis.exceptions import AuthorizationError
from redis.retry import Retry

from gpner.errors import ServiceError
from worker.sentinels import OF_SENTINELS, sentinel_address
from worker.settings import RedisUrl, load_settings

# Longer than any blocking read here (a few seconds), short against a lease: it bounds how long a half-open connection,
# one that was cut without a word, is believed.
SOCKET_TIMEOUT_SECONDS = 10.0
CONNECT_TIMEOUT_SECONDS = 5.0
# What an address may hold. Other options would win over those below, and Celery's lane would not know them.
_OF_ADDRESS = re.compile(r"connection_class|host|port|path|username|password|db|ssl_[a-z_]+")


def connect(url: RedisUrl) -> redis.Redis:
    """A pool of connections, safe for threads; nothing is sent before the first command.

    The library's own retries are off: repeating a command whose answer was lost could add a document twice, so each
    caller decides. RESP2 because Redis 6.2 and 7 and every version of redis-py answer alike in it.

    Raises:
        ServiceError: If the address cannot be understood.
    """
    address = url.get_secret_value()
    of_network = {"socket_connect_timeout": CONNECT_TIMEOUT_SECONDS, "socket_keepalive": True}
    more: dict[str, Any] = {} if address.startswith("unix://") else of_network
    more |= {"protocol": 2, "socket_timeout": SOCKET_TIMEOUT_SECONDS, "retry": Retry(NoBackoff(), 0)}
    try:
        if sentinels := sentinel_address(address):
            options = more | sentinels.options
            return sentinels.sentinel().master_for(sentinels.master, NamingRedis, **options)  # type: ignore[no-any-return,no-untyped-call]  # redis-py has none
        options = parse_url(address)  # type: ignore[no-untyped-call]  # redis-py has none
        if not all(map(_OF_ADDRESS.fullmatch, options)):
            raise ValueError
        client = NamingRedis.from_url(address, **more)
        # The library looks at the options of an address only when it makes a connection, which opens none yet.
        client.connection_pool.connection_class(**client.connection_pool.connection_kwargs)
    except (TypeError, ValueError, redis.RedisError):
        # The library's own words may quote a part of the password.
        raise ServiceError(
            f"GPNER_REDIS_URL must be an address of Redis, was: {url}; "
            "percent-encode special characters of the password, and leave out options other than db and ssl_..."
        ) from None
    return client


class NamingRedis(redis.Redis):
    """redis-py's client, whose refusals name the command and its keys; Redis itself names no key."""

    def execute_command(self, *arguments: Any, **options: Any) -> Any:
        """Send a command; where the user has no right to it, the error says to what."""
        try:
            return super().execute_command(*arguments, **options)  # type: ignore[no-untyped-call]  # redis-py has none
        except redis.ResponseError as error:
            if _is_refusal(error):
                error.args = (f"{' on '.join(filter(None, (arguments[0], _keys(arguments))))}: {error}",)
            raise


@contextmanager
def explaining(url: RedisUrl) -> Iterator[None]:
    """Turn every error of redis-py into a `ServiceError` that says what to do, with the password hidden."""
    try:
        yield
    except redis.BusyLoadingError as error:
        raise ServiceError(f"Redis at {url} is still loading its data; wait until it answers PING") from error
    except (redis.AuthenticationError, AuthorizationError) as error:
        raise ServiceError(f"Redis at {url} refused the login; check user and password in GPNER_REDIS_URL") from error
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise ServiceError(_unreachable(url, error)) from error
    except redis.RedisError as error:
        if _is_refusal(error):
            raise ServiceError(
                f"Redis at {url} gives this user no right to {error}; "
                "grant what ops/redis/users.acl has for this role, and check GPNER_NAMESPACE"
            ) from error
        raise ServiceError(f"Redis at {url} refused a command: {error}") from error


class Login(CredentialProvider):
    """User and password of `GPNER_REDIS_URL` for Celery, which so has no secret in its own settings to show."""

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Read them anew for every connection; a password without a user is that of the user `default`."""
        address = connect(load_settings().redis_url).connection_pool.connection_kwargs
        password = address.get("password", "")
        return (address["username"], password) if "username" in address else (password,)


def celery_connection(url: RedisUrl) -> dict[str, Any]:
    """Celery's settings of where Redis is.

    Celery cannot have the address as it is. Of `rediss://` alone its broker would check no certificate and its result
    backend would refuse to start, it does not know `unix://`, and it shows parts of an address to whoever may inspect.
    """
    pool = connect(url).connection_pool
    address = pool.connection_kwargs
    has_login = "username" in address or "password" in address
    login = f"credential_provider={__name__}.{Login.__name__}" if has_login else ""
    if sentinels := sentinel_address(url.get_secret_value()):
        query = login and f"?{login}"
        database = address.get("db", 0)
        place = ";".join(f"sentinel://{host}:{port}/{database}{query}" for host, port in sentinels.hosts)
        return {"broker_url": place, "result_backend": place}
    if "path" in address:
        place = f"redis+socket://{quote(address['path'])}?virtual_host={address.get('db', 0)}{login and f'&{login}'}"
        return {"broker_url": place, "result_backend": place}
    tls = pool.connection_class is redis.SSLConnection
    host = address.get("host", "localhost")
    host = f"[{host}]" if ":" in host else host
    place = f"redis{'s' if tls else ''}://{host}:{address.get('port', 6379)}/{address.get('db', 0)}"
    settings: dict[str, Any] = dict.fromkeys(("broker_url", "result_backend"), f"{place}?{login}" if login else place)
    if tls:
        options = {name: value for name, value in address.items() if name.startswith("ssl_")}
        settings["broker_use_ssl"] = settings["redis_backend_use_ssl"] = {"ssl_cert_reqs": "required"} | options
    return settings


def celery_transport_options(url: RedisUrl) -> dict[str, Any]:
    """What Celery's broker and its result backend must know beside the address, where sentinels name the master."""
    sentinels = sentinel_address(url.get_secret_value())
    return {"master_name": sentinels.master, "sentinel_kwargs": OF_SENTINELS} if sentinels else {}


def _unreachable(url: RedisUrl, error: redis.RedisError) -> str:
    """Why there is no connection: what the system said stands behind the words of redis-py."""
    cause = error.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            f"the certificate of Redis at {url} must be trusted, is not ({cause.verify_message}); "
            "name its CA with ?ssl_ca_certs=/path in GPNER_REDIS_URL, and the host as the certificate does"
        )
    if isinstance(cause, FileNotFoundError | PermissionError) and "ssl_" in url.get_secret_value():
        return f"the certificates that GPNER_REDIS_URL names must be readable, was: {url} ({cause.strerror})"
    if isinstance(cause, ssl.SSLError) or "handshake" in str(cause):
        return f"Redis at {url} must speak TLS on this port, with certificates that fit, does not ({cause})"
    return f"cannot reach Redis at {url}: start it or set GPNER_REDIS_URL"


def _is_refusal(error: Exception) -> bool:
    """Whether a user lacks a right; of what a script does Redis says so in words of its own."""
    return isinstance(error, redis.exceptions.NoPermissionError) or "The user executing the script" in str(error)


def _keys(arguments: Sequence[Any]) -> str:
    """The keys of a command, as far as this service sends it."""
    keys = arguments[1:2]
    if arguments[0] == "EVALSHA":
        keys = arguments[3 : 3 + arguments[2]]
    elif b"STREAMS" in arguments:
        names = arguments[arguments.index(b"STREAMS") + 1 :]
        keys = names[: len(names) // 2]
    return ", ".join(key.decode("utf-8", "backslashreplace") if isinstance(key, bytes) else str(key) for key in keys)
