"""The documentation against the code."""

import shutil
from pathlib import Path

from worker.reference import write_reference
from worker.settings import Settings

DOCS = Path(__file__).parents[1] / "docs"


def test_the_tables_and_schemas_in_the_documentation_are_those_of_the_code(tmp_path):
    published = tmp_path / "docs"
    shutil.copytree(DOCS, published)

    write_reference(published)

    for file in ["operations.md", *(f"schemas/{name.name}" for name in (DOCS / "schemas").iterdir())]:
        assert (published / file).read_text() == (DOCS / file).read_text(), "run `python -m worker.reference docs`"


def test_every_setting_and_metric_stands_in_the_operators_manual():
    manual = (DOCS / "operations.md").read_text(encoding="utf-8")

    assert all(f"GPNER_{name.upper()}" in manual for name in Settings.model_fields)
    assert all(metric in manual for metric in ("gpner_documents_total", "gpner_queue_depth", "gpner_model_flops_total"))


def test_there_are_at_most_25_settings_and_each_says_what_it_is_for():
    assert len(Settings.model_fields) <= 25
    assert all(len(setting.description or "") > 40 for setting in Settings.model_fields.values())
