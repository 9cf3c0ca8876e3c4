"""Between Celery and Redis: patience where Redis is away or refuses to write, and no harm from what is no message.

Redis refuses writes while its memory or disk is full, and after a failover. Celery takes that for a mistake in the
program: it drops the message that it was just popping, forgets the answer that it could not store, and ends the worker,
which alone could free the memory. Here a worker waits, as it does while Redis is away. And any client can push what is
no message; that is counted, told in the log and deleted.
"""

import logging
import re
import threading
import time
from collections.abc import Callable
from itertools import count
from queue import Empty
from typing import Any

import redis
from celery.backends.redis import RedisBackend
from celery.backends.redis import SentinelBackend as CelerySentinelBackend
from celery.worker import request, state
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis

from worker.protocol import shorten

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 0.5
# Redis' own words, where redis-py has no class for them.
_REFUSAL = re.compile(r"\b(OOM|MISCONF|READONLY|NOREPLICAS) ")

# Set while this process is a worker that was not told to end. Nobody else waits: an operator's command fails at once.
working = threading.Event()
# Threads that wait for Redis, for one line in the log instead of one from each.
_waiting: set[int] = set()
_malformed = count(1)


def is_working() -> bool:
    """Whether this process is a worker that was not told to end."""
    # Celery keeps exit codes in both, and 0 is one.
    is_told_to_end = any(code is not None and code is not False for code in (state.should_stop, state.should_terminate))
    return working.is_set() and not is_told_to_end


def until_taken(step: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Try a step that may be done twice until Redis has taken it, as long as this process is a worker at work.

    Raises:
        redis.ConnectionError: If Redis is away or refuses to write, and this is no worker, or one that ends. Celery
            understands that.
    """
    thread = threading.get_ident()
    try:
        while True:
            try:
                return step(*arguments, **options)
            except redis.ResponseError as error:
                if not refuses_writes(error):
                    raise
                words = _words(error)
                if not is_working():
                    raise redis.ConnectionError(f"Redis refuses to write: {words}") from None
                if not _waiting:
                    logger.warning("calls wait until Redis writes again: %s", words)
                _waiting.add(thread)
            except (redis.ConnectionError, redis.TimeoutError):
                if not is_working():
                    raise
            time.sleep(PAUSE_SECONDS)
    finally:
        _waiting.discard(thread)


def unless_refused(write: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Try a write that is tried again soon anyway."""
    try:
        write(*arguments, **options)
    except redis.ResponseError as error:
        if not refuses_writes(error):
            raise


def refuses_writes(error: redis.ResponseError) -> bool:
    """Whether it is for the state of Redis that a command was refused: nothing was done, and later it may be taken."""
    return isinstance(error, redis.OutOfMemoryError | redis.ReadOnlyError) or bool(_REFUSAL.search(_words(error)))


def _words(error: redis.ResponseError) -> str:
    """Those of Redis: redis-py puts the command before them, and so the beginning of a document."""
    return str(error).rpartition(" caused error: ")[2]


class QoS(kombu_redis.QoS):
    """The notes of messages that were popped and are not acknowledged."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message: until that is done it exists nowhere but in this process."""
        try:
            until_taken(super().append, message, delivery_tag)
        except redis.RedisError:
            logger.error("call %s is lost: Redis did not note it", shorten(str(message.headers.get("id"))))
            raise

    def ack(self, delivery_tag: str) -> None:
        """Forget one that is done: else it would come again after its visibility timeout."""
        until_taken(super().ack, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Forget one, or put it back."""
        until_taken(super().reject, delivery_tag, requeue)

    def restore_visible(self, *arguments: Any, **options: Any) -> None:
        """Put back those of dead workers."""
        unless_refused(super().restore_visible, *arguments, **options)


class Channel(kombu_redis.Channel):
    """Patient where it writes; what it cannot read it deletes."""

    QoS = QoS

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Callable[[Any], Any], *arguments: Any, **options: Any
    ) -> Any:
        """Hand messages to a callback. One that breaks it twice is deleted, or it would break every worker in turn."""

        def handle(message: Any) -> Any:
            try:
                return callback(message)
            except _NOT_THE_MESSAGE:
                raise
            except Exception as error:  # noqa: BLE001 - a message can hold anything, and break Celery anywhere
                # Only where kombu can mark it: what comes unmarked again and again would never be deleted.
                is_first = bool(message.headers) and not message.delivery_info.get("redelivered")
                _tell_malformed(error, "put back once" if is_first else "deleted")
                if not no_ack:
                    message.reject(requeue=is_first)

        consume: Any = super().basic_consume
        return consume(queue, no_ack, handle, *arguments, **options)

    def _brpop_read(self, **options: Any) -> Any:
        return _read(super()._brpop_read, **options)

    def _receive_one(self, connection: Any) -> Any:
        return _read(super()._receive_one, connection)

    def maybe_refresh_binding_expiry(self) -> None:
        """Keep the queue of an answer to an operator alive."""
        unless_refused(super().maybe_refresh_binding_expiry)

    def _put(self, queue: str, message: Any, **options: Any) -> None:
        # A task of a chain puts the next one here, once it is done.
        until_taken(super()._put, queue, message, **options)

    def get_table(self, exchange: str) -> Any:
        """Read which queues an exchange has."""
        return until_taken(super().get_table, exchange)

    def _queue_bind(self, *arguments: Any) -> None:
        until_taken(super()._queue_bind, *arguments)

    def _size(self, queue: str) -> int:
        # It only reads; but Redis 6.2 takes no transaction at all when its memory is full.
        return int(until_taken(super()._size, queue))


class Transport(kombu_redis.Transport):
    """kombu's, with that channel."""

    Channel = Channel


class Backend(RedisBackend):  # type: ignore[misc]  # celery has no types
    """The store of answers."""

    def get(self, key: str) -> Any:
        """Read an answer: Celery does so before it stores one, and takes an error for the call's own."""
        return until_taken(super().get, key)

    def set(self, key: str, value: Any, **retry_policy: Any) -> Any:
        """Store an answer and tell who waits for it."""
        return until_taken(super().set, key, value, **retry_policy)

    def on_chord_part_return(self, *arguments: Any, **options: Any) -> None:
        """Count an answer among those that a chord waits for."""
        until_taken(super().on_chord_part_return, *arguments, **options)


class SentinelChannel(Channel, kombu_redis.SentinelChannel):
    """The same where sentinels name the master."""


class SentinelTransport(kombu_redis.SentinelTransport):
    """kombu's, with that channel."""

    Channel = SentinelChannel


class SentinelBackend(Backend, CelerySentinelBackend):  # type: ignore[misc]  # celery has no types
    """The store of answers where sentinels name the master."""

    def _params_from_url(self, url: str, defaults: dict[str, Any]) -> dict[str, Any]:
        # Celery's own keeps user and password of the address, and forgets who provides them.
        params: dict[str, Any] = super()._params_from_url(url, defaults)
        provider = params["hosts"][0].get("credential_provider")
        return params | ({"credential_provider": provider} if provider else {})


class Request(request.Request):  # type: ignore[misc]  # celery has no types
    """One call in this worker."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # Its task may have to wait for a thread, while the time runs after which its message is put back.
        self._request_dict["received"] = time.monotonic()

    def cancel(self, *arguments: Any, **options: Any) -> None:
        """Leave it alone: a thread cannot be killed, and this one hands its call back by itself."""


# What comes while a message is read, and is not its fault.
_NOT_THE_MESSAGE = (Empty, redis.RedisError, OSError, MemoryError)


def install(app: Any) -> None:
    """Have an app use all this wherever its settings name Redis."""
    TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), f"{__name__}:{Transport.__name__}"))
    TRANSPORT_ALIASES["sentinel"] = f"{__name__}:{SentinelTransport.__name__}"
    app.loader.override_backends = dict.fromkeys(("redis", "rediss"), f"{__name__}:{Backend.__name__}")
    app.loader.override_backends["sentinel"] = f"{__name__}:{SentinelBackend.__name__}"


def _read(read: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    try:
        return read(*arguments, **options)
    except _NOT_THE_MESSAGE:
        raise
    except Exception as error:  # noqa: BLE001 - whatever came was taken off its list, and is no message
        _tell_malformed(error, "deleted")
        return None


def _tell_malformed(error: Exception, fate: str) -> None:
    logger.error("a message that is no task was %s, the %d. here: %s", fate, next(_malformed), type(error).__name__)
