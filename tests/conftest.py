"""Fixtures for every test."""

import os

from gpner.process import prepare_process

pytest_plugins = ["tests.page_fixtures", "tests.redis_fixtures", "tests.tokenizers_fixtures", "tests.training_fixtures"]

# The size of a terminal, which consoles would keep: readline leaves it to the processes of pytest-xdist.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the others need the cores, too
prepare_process()  # before a plugin loads torch
