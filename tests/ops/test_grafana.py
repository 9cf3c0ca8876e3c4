"""The dashboards that ship with gpner: their form by Grafana's own types."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from ops.grafana.build import FOLDER, dashboards
from tests.ops.dashboards import load, names

SCHEMA = Path(__file__).parent / "schema"
NPM_PACKAGES = (
    "@grafana/schema@13.2.3",
    "@grafana/grafana-foundation-sdk@0.0.21",
    "ajv@8.20.0",
    "ts-json-schema-generator@2.4.0",
)
UIDS = {"overview.json": "gpner-overview", "quality.json": "gpner-quality"}


def test_the_dashboards_are_what_the_code_beside_them_writes() -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}

    assert written == dashboards(), "run `python -m ops.grafana.build`"


def test_ids_and_variables_stay_as_links_and_habits_expect_them() -> None:
    assert names() == sorted(UIDS)
    for name, uid in UIDS.items():
        dashboard = load(name)
        variables = [variable["name"] for variable in dashboard["templating"]["list"]]
        assert dashboard["uid"] == uid
        assert variables[:3] == ["datasource", "namespace", "worker"]


@pytest.mark.parametrize("name", UIDS)
def test_every_panel_says_what_to_do_and_none_covers_another(name: str) -> None:
    panels = [panel for panel in load(name)["panels"] if panel["type"] != "row"]
    places = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert len(places) == len(set(places))
    assert max(x for x, _ in places) == 23
    assert len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        assert len(panel["description"]) > 60, panel["title"]


@pytest.fixture(scope="module")
def grafana_types(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Grafana's types from npm, and the program that holds dashboards against them."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm, to fetch Grafana's types")
    folder = tmp_path_factory.mktemp("types")
    for file in SCHEMA.iterdir():
        shutil.copy(file, folder)
    (folder / "package.json").write_text("{}")
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", *NPM_PACKAGES]
    fetched = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    if fetched.returncode:
        pytest.skip(f"needs npm's registry: {fetched.stderr.strip().splitlines()[-1]}")
    return folder


def complaints(types: Path, *dashboards: Path) -> list[str]:
    """What Grafana's types say against dashboards."""
    command = ["node", "check.mjs", *map(str, dashboards)]
    checked = subprocess.run(command, cwd=types, capture_output=True, text=True, timeout=100, check=False)
    assert checked.returncode == 0, checked.stderr
    return checked.stdout.splitlines()


@pytest.mark.slow
def test_grafanas_own_types_have_nothing_against_the_dashboards(grafana_types: Path) -> None:
    assert complaints(grafana_types, *(FOLDER / name for name in UIDS)) == []


@pytest.mark.slow
def test_grafanas_own_types_find_a_mistake_in_a_panel_and_around_it(grafana_types: Path, tmp_path: Path) -> None:
    dashboard = load("overview.json")
    lines = next(panel for panel in dashboard["panels"] if panel["type"] == "timeseries")
    lines["fieldConfig"]["defaults"]["custom"]["drawStyle"] = "zigzag"
    dashboard["refesh"] = "30s"
    (tmp_path / "broken.json").write_text(json.dumps(dashboard))

    found = " ".join(complaints(grafana_types, tmp_path / "broken.json"))

    assert "/fieldConfig/defaults/custom/drawStyle" in found
    assert "refesh" in found
