"""Fixtures for every test."""

from gpner.process import prepare_process

pytest_plugins = ["tests.page_fixtures", "tests.redis_fixtures", "tests.tokenizers_fixtures", "tests.training_fixtures"]

prepare_process()  # before a plugin loads torch
