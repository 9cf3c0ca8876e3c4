"""Queries, rules and alerts on a real service under load and under faults, and the Prometheus that measures it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.ops.dashboards import filled_in, load, names, queries
from tests.ops.observed import Observed, observed, rules
from tests.ops.servers import missing_programs
from tests.workers import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    """One service for all tests here: it takes longer to start than any of them."""
    if missing := missing_programs():
        pytest.skip(f"needs {', '.join(missing)}: apt-get install prometheus prometheus-redis-exporter")
    with observed(tmp_path_factory.mktemp("observed")) as running:
        yield running


@pytest.mark.parametrize("name", names())
def test_every_query_of_every_panel_returns_data(service: Observed, name: str) -> None:
    values = {"namespace": "gpner", "worker": ".*", "label": ".*", "__rate_interval": "20s", "__range": "2m"}

    assert service.without_data(filled_in(expression, **values) for _, expression in queries(load(name))) == set()


def test_the_variables_find_the_services_and_their_workers(service: Observed) -> None:
    for name in names():
        for variable in load(name)["templating"]["list"]:
            if variable["type"] == "query":
                series, label = (
                    variable["query"]["query"].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
                )
                found = service.prometheus.query(filled_in(series, namespace="gpner"))
                assert found
                assert all(sample["metric"][label] for sample in found)


def test_every_rule_is_evaluated_and_every_recorded_series_has_values(service: Observed) -> None:
    assert service.without_data(rule["record"] for rule in rules("recording.yml")) == set()
    assert [rule for rule in service.prometheus.rules() if rule["health"] != "ok"] == []


def test_every_alert_sees_its_fault_on_a_real_service(service: Observed) -> None:
    assert service.without_data(rule["expr"] for rule in rules("alerts.yml")) == set()


def test_what_an_alert_says_is_whole(service: Observed) -> None:
    alerts = {rule["alert"] for rule in rules("alerts.yml")}
    said: dict[str, Any] = {}
    wait_until(lambda: said.update(active(service)) or said.keys() == alerts, 60, "each alert, pending or firing")

    for alert, of_alert in said.items():
        text = json.dumps(of_alert["annotations"])
        assert "<no value>" not in text, alert
        assert "error expanding" not in text, alert
        assert of_alert["labels"]["severity"] in ("critical", "warning")


def active(service: Observed) -> dict[str, dict[str, Any]]:
    return {rule["name"]: rule["alerts"][0] for rule in service.prometheus.rules() if rule.get("alerts")}
