"""What every test of bulk jobs stands in: an empty folder, and settings with an engine that costs nothing."""

from pathlib import Path

import pytest

from tests.workers import ROOT
from worker.settings import Settings


@pytest.fixture(autouse=True)
def surroundings(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPNER_REDIS_URL", settings.redis_url.get_secret_value())
    monkeypatch.setenv("GPNER_NAMESPACE", settings.namespace)
    monkeypatch.setenv("GPNER_ENGINE", "tests.engines:load_capitals")
    monkeypatch.setenv("GPNER_DEVICE", "cpu")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for jobs in processes of their own
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # a job in this process sets it
