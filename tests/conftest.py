"""Fixtures for every test."""

pytest_plugins = ["tests.page_fixtures", "tests.redis_fixtures", "tests.tokenizers_fixtures", "tests.training_fixtures"]
