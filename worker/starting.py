"""`gpner-worker start`: finds a user's mistakes in the first second, one line each, then becomes the Celery worker."""

import logging
import os
import sys
import warnings
from pathlib import Path

from rich.console import Console

from gpner.errors import ConfigError
from gpner.model_folder import read_config
from worker.health import check_port
from worker.logs import settings_lines
from worker.queue import DocumentQueue
from worker.settings import Settings, load_settings

# Calls of `gpner.extract` that one worker has under way. Their threads only wait for the queue, so many cost little,
# and callers with one document a call need many to fill a batch.
POOL_THREADS = 32


def start(console: Console) -> None:
    """Check everything that is cheap to check, print the settings, and become `celery -A worker.app worker`.

    Celery runs in this very process, so that signals and exit codes are its own. Does not return.

    Raises:
        ConfigError: If a setting is wrong.
        CheckpointError: If there is no model.
        ServiceError: If Redis is away or the port is taken.
    """
    settings = load_settings()
    check(settings)
    for line in settings_lines(settings):
        console.print(line, markup=False, highlight=False)
    become_celery()


def check(settings: Settings) -> None:
    """Raise what would stop the worker anyway, before anything slow is loaded."""
    if settings.engine == Settings.model_fields["engine"].default:
        check_model(settings.model)
    queue = DocumentQueue(settings, consumer="start")
    try:
        queue.ensure()
    finally:
        queue.close()
    if settings.metrics_port:
        check_port(settings.metrics_host, settings.metrics_port)


def check_model(path: str) -> None:
    """Look whether a folder holds a gpner model, without loading torch.

    Raises:
        ConfigError: If no folder is set.
        CheckpointError: If the folder holds something else.
    """
    if not path:
        raise ConfigError(
            "GPNER_MODEL must name the folder of a trained model, it is not set; train one with `gpner train`"
        )
    read_config(Path(path))


def become_celery() -> None:
    """Run Celery's command in place of ours, under a node name of its own so that two on a host can be told apart."""
    from celery.__main__ import main
    from celery.platforms import SecurityWarning

    # Celery warns the superuser of a container because messages might be pickles; here they are JSON and nothing else.
    warnings.simplefilter("ignore", SecurityWarning)
    node = f"gpner-{os.getpid()}@%h"
    options = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    sys.argv = ["celery", "--quiet", "-A", "worker.app", "worker", "-P", "threads", "-c", str(POOL_THREADS), "-n", node,
                "-l", "INFO", *options]  # fmt: skip
    try:
        main()
    except SystemExit as end:
        # A forward that outlasted the drain still runs in native code, which must not meet a dying interpreter.
        logging.shutdown()
        os._exit(end.code if isinstance(end.code, int) else 0)
