"""The Celery app: what its configuration promises, and that it loads no model before it must."""

import subprocess
import sys

import pytest
from celery.app.defaults import DEFAULTS

from gpner.errors import ConfigError
from tests.engines import CapitalsEngine
from tests.workers import ROOT
from worker.app import PumpStep, app, celery_configuration
from worker.budget import ORDINARY_TOKENS
from worker.engine import load_engine
from worker.settings import Settings


def test_celery_takes_json_only_and_keeps_to_the_namespace(settings: Settings) -> None:
    configuration = celery_configuration(settings)

    assert configuration["accept_content"] == ["json"]
    assert configuration["broker_url"] == configuration["result_backend"] == settings.redis_url.get_secret_value()
    for options in ("broker_transport_options", "result_backend_transport_options"):
        assert configuration[options]["global_keyprefix"] == settings.namespace


def test_every_key_of_the_configuration_is_one_that_celery_knows(settings: Settings) -> None:
    assert set(celery_configuration(settings)) <= set(DEFAULTS)


def test_the_pump_starts_with_the_worker_and_outlives_no_pool() -> None:
    assert PumpStep in app.steps["worker"]
    assert PumpStep.requires == ("celery.worker.components:Pool",)


def test_the_app_loads_no_torch_before_a_gpu_is_claimed() -> None:
    program = "import sys, worker.app, worker.starting; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("engine", ["no.such.module:load", "tests.engines:no_such_function", "tests.engines:"])
def test_an_engine_that_is_not_there_is_named(settings: Settings, engine: str) -> None:
    with pytest.raises(ConfigError, match=f"GPNER_ENGINE must name a function as module:function, was: {engine}"):
        load_engine(settings.model_copy(update={"engine": engine}))


def load_without_a_size(settings: Settings) -> CapitalsEngine:
    engine = CapitalsEngine(settings)
    engine.max_batch_tokens = settings.max_batch_tokens
    return engine


def test_an_engine_that_leaves_the_size_of_batches_to_the_settings_gets_an_ordinary_one(settings: Settings) -> None:
    engine = "tests.test_app:load_without_a_size"

    sizes = [
        load_engine(settings.model_copy(update={"engine": engine, "max_batch_tokens": given})).max_batch_tokens
        for given in (0, 70)
    ]

    assert sizes == [ORDINARY_TOKENS, 70]
