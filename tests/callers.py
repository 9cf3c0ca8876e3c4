"""What a service that speaks Celery does: send calls of `gpner.extract`, and look at what became of them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from redis import Redis

from tests.workers import wait_until
from worker.settings import Settings

SOCKET_TIMEOUT_SECONDS = 5


@contextmanager
def celery_app(settings: Settings) -> Iterator[Celery]:
    """An app of somebody else in the service's Redis and namespace."""
    with Celery("caller", broker=settings.redis_url.get_secret_value(), set_as_current=False) as app:
        app.conf.broker_transport_options = {
            "global_keyprefix": settings.namespace,
            "socket_timeout": SOCKET_TIMEOUT_SECONDS,
            "socket_connect_timeout": SOCKET_TIMEOUT_SECONDS,
        }
        app.conf.task_publish_retry = False
        yield app


def call(settings: Settings, documents: object, task_id: str | None = None, **options: object) -> str:
    """Send one task, and return its id."""
    with celery_app(settings) as app:
        return str(app.send_task("gpner.extract", [documents], options, queue="tasks", task_id=task_id).id)


def ended(store: Redis, task_id: str, namespace: str = "test:") -> Any:
    """What Celery keeps of a task, once there is something and every message is acknowledged."""
    key = f"{namespace}celery-task-meta-{task_id}"
    wait_until(lambda: store.exists(key), 20, "the result of the task")
    wait_until(lambda: not store.exists(f"{namespace}unacked", f"{namespace}tasks"), what="the acknowledgement")
    return json.loads(store.get(key) or b"")
