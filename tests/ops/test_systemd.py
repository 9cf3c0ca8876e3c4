"""The unit of systemd: what the manager thinks of it, and a worker that starts as the unit says."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workers import ROOT, WorkerProcess
from worker.local_redis import free_port
from worker.settings import ENV_PREFIX, Settings

UNIT = ROOT / "ops/systemd/gpner-worker@.service"


def values(name: str) -> list[str]:
    """What the unit says under a name, in order."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze, of Debian's package systemd")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("gpner-worker")
    assert program.exists(), "the tests need gpner installed, `pip install --editable .`"
    unit = UNIT.read_text(encoding="utf-8").replace("/opt/gpner/bin/gpner-worker", str(program))
    copy = tmp_path / UNIT.name
    copy.write_text(unit, encoding="utf-8")

    checked = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True)

    # It looks at the units of this machine that ours is ordered after, too.
    assert [line for line in checked.stderr.splitlines() if "gpner-worker" in line] == []
    assert checked.returncode == 0, checked.stderr


def test_a_drain_ends_before_systemd_loses_patience() -> None:
    assert float(values("TimeoutStopSec")[0]) >= Settings.model_fields["drain_seconds"].default + 15


def test_the_unit_keeps_what_a_gpu_needs() -> None:
    """A rule about any device is a rule against all others, and ProtectClock is one."""
    assert not any(values(name) for name in ("PrivateDevices", "ProtectClock", "DeviceAllow", "DevicePolicy"))


@pytest.mark.integration
def test_each_instance_serves_its_metrics_on_the_port_that_it_is_named_after(
    settings: Settings, tmp_path: Path
) -> None:
    instance = free_port()
    given = dict(pair.split("=") for pair in values("Environment")[0].replace("%i", str(instance)).split())
    of_unit = {name.removeprefix(ENV_PREFIX).lower(): value for name, value in given.items() if ENV_PREFIX in name}

    with WorkerProcess(settings, "load_capitals", tmp_path / "log", **of_unit) as worker:
        worker.wait_until_ready()
        worker.signal(signal.SIGTERM)
        code = worker.wait()

    assert worker.port == instance
    assert code == 0
