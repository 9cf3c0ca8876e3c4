"""The Celery app: process model, signals and remote control come from it; documents come through its worker step.

The document queue is a Redis stream rather than Celery messages, because Celery's Redis transport can lose a message
that it is just popping when the process is killed, and costs fifty times as much per document. Celery's own messages
share the Redis and the namespace.
"""

import logging
import warnings
from typing import Any

from celery import Celery, bootsteps
from celery.exceptions import CPendingDeprecationWarning

from gpner.errors import GpnerError
from worker import broker, control, logs, tasks  # noqa: F401 - loading these is what makes Celery know them
from worker.connection import celery_connection, celery_transport_options
from worker.devices import Claim, claim_device
from worker.engine import load_engine
from worker.outage import in_one_line
from worker.pump import Pump
from worker.serving import CANNOT_START
from worker.settings import Settings, load_settings

logger = logging.getLogger(__name__)


class PumpStep(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
    """Starts the pump with the worker and drains it on a warm shutdown.

    It needs the pool: steps stop in reverse order, so the pool outlives the pump, and the calls in it, which would wait
    for documents that this worker reads no more, are handed back before.
    """

    label = "Pump"
    requires = ("celery.worker.components:Pool",)

    def create(self, worker: Any) -> Pump:
        """Claim the device, before anything loads torch, and listen on the port."""
        # Celery praises, at every loss of the connection, a setting that cannot work with threads: it would cancel
        # their tasks. Said here, because its own set-up of logs puts all its warnings first.
        warnings.filterwarnings("ignore", "\nIn Celery 5.1", CPendingDeprecationWarning)
        try:
            settings = load_settings()
            self.claim: Claim | None = claim_device(settings)  # holds the lock as long as the process lives
            pump = Pump(settings, load_engine, device=self.claim.uuid if self.claim else "cpu")
        except GpnerError as error:
            logger.critical("%s", error)
            raise SystemExit(CANNOT_START) from error
        worker.pump = pump  # where the control commands find it
        broker.working.set()
        return pump

    def stop(self, worker: Any) -> None:
        """Hand calls back to Celery's queue, and drain the pump."""
        broker.working.clear()
        super().stop(worker)

    def terminate(self, worker: Any) -> None:
        """Hand calls back to Celery's queue, and what the pump holds to the other workers."""
        broker.working.clear()
        super().terminate(worker)

    def info(self, worker: Any) -> dict[str, Any]:
        """What `celery inspect stats` shows under "pump"."""
        return {"pump": self.obj.info()}


def celery_configuration(settings: Settings) -> dict[str, Any]:
    """Celery's side of the settings."""
    shared = {"global_keyprefix": settings.namespace, **celery_transport_options(settings.redis_url)}
    return {
        **celery_connection(settings.redis_url),
        # Redelivery of tasks whose worker died, looked for every 5 s: the defaults are an hour, and 100 s.
        "broker_transport_options": {
            **shared,
            "visibility_timeout": 300,
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            # How long a worker that was killed while it looked keeps the others from it; the default is five minutes.
            "unacked_mutex_expire": 10,
        },
        "result_backend_transport_options": shared,
        "result_expires": settings.result_ttl_seconds,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # Whatever Redis refuses, its other lane may work: the consumer tries again, where Celery would end the worker.
        "broker_channel_error_retry": True,
        "worker_pool": "threads",
        "worker_prefetch_multiplier": 1,
        "worker_send_task_events": False,
        # A task whose acknowledgement was lost comes again; one that has its result is not run twice.
        "worker_deduplicate_successful_tasks": True,
        "worker_redirect_stdouts": False,
        "task_default_queue": "tasks",
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
    }


app = Celery("gpner")
broker.install(app)
app.add_defaults(lambda: celery_configuration(load_settings()))
app.steps["worker"].add(PumpStep)
logging.getLogger("celery.worker.consumer.consumer").addFilter(in_one_line)
logs.connect()
