"""What operators can tell running workers, through Celery's own remote control.

celery -A worker.app control pause | resume | drain | reload [FOLDER]
celery -A worker.app inspect held

All workers get a command, or those that `-d` names. Each answers at once; `inspect held` says how far it came.
"""

import os
import signal
from typing import Any

from celery.worker.control import control_command, inspect_command

from gpner.errors import ServiceError
from worker.pump import Pump

Reply = dict[str, str]


@control_command()  # type: ignore[untyped-decorator]  # celery has no types
def pause(state: Any) -> Reply:
    """Read no more documents; finish those that are held."""
    _pump(state).pause()
    return {"ok": "paused; `resume` ends it"}


@control_command()  # type: ignore[untyped-decorator]  # celery has no types
def resume(state: Any) -> Reply:
    """End a pause."""
    _pump(state).resume()
    return {"ok": f"now {_pump(state).state}"}


@control_command()  # type: ignore[untyped-decorator]  # celery has no types
def drain(state: Any) -> Reply:
    """Read no more documents, finish those that are held however long it takes, and end the process."""
    _pump(state).drain(_end_process)
    return {"ok": "draining; the process ends when nothing is held"}


@control_command(args=[("path", str)], signature="[FOLDER]")  # type: ignore[untyped-decorator]  # celery has no types
def reload(state: Any, path: str | None = None) -> Reply:
    """Exchange the model for the one in a folder, or read GPNER_MODEL anew, and lose nothing that is held."""
    try:
        _pump(state).reload(path)
    except ServiceError as error:
        return {"error": str(error)}
    return {"ok": "reloading; `inspect held` says how it ends"}


@inspect_command()  # type: ignore[untyped-decorator]  # celery has no types
def held(state: Any) -> dict[str, Any]:
    """Documents held and the age of the oldest, token budget, device, model, state, and the last reload."""
    return _pump(state).info()


def _pump(state: Any) -> Pump:
    pump: Pump = state.consumer.controller.pump
    return pump


def _end_process() -> None:
    # As its supervisor would: Celery's warm shutdown, its own tasks handed back too.
    os.kill(os.getpid(), signal.SIGTERM)
