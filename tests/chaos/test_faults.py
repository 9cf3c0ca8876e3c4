"""Every fault once or twice, at a service that is at work: nothing is lost, nothing is answered twice.

`make chaos` does the same for minutes.
"""

from itertools import cycle
from pathlib import Path
from random import SystemRandom

import pytest

from tests.chaos.faults import FAULTS, Fault
from tests.chaos.scenario import Load, run
from tests.chaos.sites import NotPossible

pytestmark = [pytest.mark.integration, pytest.mark.slow]

# One worker and three, steady arrival and backlog: in turn here, each with each in the long suite.
LOADS = cycle([Load("backlog", 1), Load("steady", 3), Load("steady", 1), Load("backlog", 3)])
SCENARIOS = [pytest.param(fault, load, id=f"{fault.name}-{load}") for fault, load in zip(FAULTS, LOADS, strict=False)]


@pytest.mark.parametrize(("fault", "load"), SCENARIOS)
def test_nothing_is_lost_and_nothing_is_answered_twice(fault: Fault, load: Load, tmp_path: Path) -> None:
    seed = SystemRandom().randrange(10**6)

    try:
        report = run(fault, load, fault.short, seed, tmp_path)
    except NotPossible as reason:
        pytest.skip(str(reason))

    assert report.audit.problems == [], f"seed {seed}"
    assert report.faults == fault.short
    assert report.audit.documents == report.audit.done + report.audit.failed > 0
    assert (report.audit.lost, report.audit.twice) == (0, 0)
    assert report.audit.calls > 0
