"""Writes the dashboards that Grafana reads: `python -m ops.grafana.build`, from the root of the repository.

The JSON is kept beside this, so that nobody needs Python to use it; a test fails where it is not what comes out here.
"""

import json
from pathlib import Path

from ops.grafana.overview import overview
from ops.grafana.quality import quality

FOLDER = Path(__file__).parent / "dashboards"


def dashboards() -> dict[str, str]:
    """The files, by their names."""
    return {
        "overview.json": json.dumps(overview(), indent=2) + "\n",
        "quality.json": json.dumps(quality(), indent=2) + "\n",
    }


if __name__ == "__main__":
    for name, content in dashboards().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
