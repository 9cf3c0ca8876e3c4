"""The rules and alerts that ship with gpner, on the Prometheus that they are meant for."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.ops.observed import PROMETHEUS_FOLDER, rules
from tests.ops.servers import PROMTOOL

ROOT = Path(__file__).parents[2]
CASES = sorted((PROMETHEUS_FOLDER / "tests").glob("*.yml"))

needs_promtool = pytest.mark.skipif(not shutil.which(PROMTOOL), reason="needs promtool: apt-get install prometheus")


ALERTS = {rule["alert"]: rule for rule in rules("alerts.yml")}


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROMTOOL, *arguments], cwd=PROMETHEUS_FOLDER, capture_output=True, text=True, timeout=110, check=False
    )


@needs_promtool
def test_promtool_accepts_the_configuration_and_all_rules() -> None:
    checked = promtool("check", "config", "prometheus.yml")

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("SUCCESS") == 4  # the file and its syntax, and two files of rules


@needs_promtool
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_alerts_fire_in_the_situations_that_they_are_for_and_in_no_other(case: Path) -> None:
    tested = promtool("test", "rules", str(case))

    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_silent() -> None:
    cases = [test for case in CASES for test in yaml.safe_load(case.read_text(encoding="utf-8"))["tests"]]
    fires = {case["name"].split()[0]: case for case in cases if re.match(r"\w+ fires", case["name"])}
    silent = {word for case in cases if "silent" in case["name"] for word in case["name"].split() if word in ALERTS}

    assert fires.keys() == silent == ALERTS.keys()
    for alert, case in fires.items():
        assert f'alertname="{alert}"' in str(case["promql_expr_test"])


def test_every_alert_says_how_urgent_it_is_and_where_to_read_on() -> None:
    manual = (ROOT / "docs/operations.md").read_text(encoding="utf-8")

    for alert, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("critical", "warning") or "priority" in rule["labels"]["severity"]
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{alert.lower()}"
        assert re.search(rf"^#+ {alert}$", manual, re.MULTILINE), f"{alert} has no heading in docs/operations.md"


def test_every_metric_that_rules_and_dashboards_name_exists() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "ops/prometheus/rules").glob("*.yml")]
    texts += [path.read_text(encoding="utf-8") for path in (ROOT / "ops/grafana/dashboards").glob("*.json")]
    named = {name for text in texts for name in re.findall(r"\bgpner_[a-z_0-9]+[a-z0-9]", text)}
    manual = (ROOT / "docs/operations.md").read_text(encoding="utf-8")

    unknown = {name for name in named if f"`{re.sub('_(bucket|sum|count)$', '', name)}`" not in manual}
    assert unknown == set()
