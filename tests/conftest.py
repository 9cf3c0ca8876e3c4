"""Fixtures for every test."""

pytest_plugins = ["tests.redis_fixtures", "tests.tokenizers_fixtures", "tests.training_fixtures"]
