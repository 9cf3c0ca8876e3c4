"""Draws dashboards without Grafana: `python -m ops.grafana.render http://prometheus:9090 FOLDER`.

To be run from the root of the repository. One picture for each dashboard, from the same JSON and the same queries: the
panels' data, where no Grafana is. How they look in Grafana is Grafana's affair. Needs matplotlib.
"""

import argparse
import json
import math
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib import dates, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FOLDER = Path(__file__).parent / "dashboards"
# Inches for a column and for a unit of height of Grafana's grid.
COLUMN, HEIGHT = 0.75, 0.38
POINTS = 300
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
COLORS = {"green": "#3a9a4b", "yellow": "#d9a900", "orange": "#e07b00", "red": "#cc2936", "purple": "#8f3bb8"}


@dataclass(frozen=True)
class Span:
    """What a picture shows: a Prometheus, from when to when in seconds since the epoch, and values of variables."""

    url: str
    start: float
    end: float
    variables: dict[str, str]

    def series(self, expression: str) -> list[tuple[dict[str, str], list[float], list[float]]]:
        """Labels, times and values of each series."""
        step = (self.end - self.start) / POINTS
        found = self._get("query_range", expression, start=self.start, end=self.end, step=step)["result"]
        return [(row["metric"], *_numbers(row["values"])) for row in found]

    def last(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each sample at the end."""
        found = self._get("query", expression, time=self.end)
        rows = [{"metric": {}, "value": found["result"]}] if found["resultType"] == "scalar" else found["result"]
        return [(row["metric"], float(row["value"][1])) for row in rows]

    def _get(self, path: str, expression: str, **parameters: float) -> Any:
        for name, value in sorted(self.variables.items(), key=lambda pair: -len(pair[0])):
            expression = expression.replace(f"${name}", value)
        query = urllib.parse.urlencode({"query": expression, **parameters})
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=60) as answer:  # noqa: S310 - the user's own address
            return json.load(answer)["data"]


def render(dashboard: dict[str, Any], span: Span, output: Path) -> None:
    """Write the picture of one dashboard."""
    panels = dashboard["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = Figure(figsize=(24 * COLUMN, rows * HEIGHT + 0.6), dpi=80, facecolor="white")
    width, height = figure.get_size_inches()
    figure.text(0.01, 1 - 0.35 / height, dashboard["title"], fontsize=16, weight="bold")
    for panel in panels:
        place = panel["gridPos"]
        top = height - 0.6 - place["y"] * HEIGHT
        if panel["type"] == "row":
            figure.text(0.01, (top - 0.3) / height, panel["title"], fontsize=13, weight="bold", color="#555555")
            continue
        left, bottom = place["x"] * COLUMN + 0.55, top - place["h"] * HEIGHT + 0.3
        box = (
            left / width,
            bottom / height,
            (place["w"] * COLUMN - 0.7) / width,
            (place["h"] * HEIGHT - 0.65) / height,
        )
        axes = figure.add_axes(box)
        axes.set_title(panel["title"], fontsize=9, loc="left", weight="bold")
        axes.tick_params(labelsize=7)
        DRAWN[panel["type"]](axes, panel, span)
    figure.savefig(output)


def _lines(axes: Axes, panel: dict[str, Any], span: Span) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    custom, unit = defaults["custom"], defaults["unit"]
    found = [
        (_legend(target["legendFormat"], labels), times, values)
        for target in panel["targets"]
        for labels, times, values in span.series(target["expr"])
    ]
    if custom["stacking"]["mode"] == "normal" and found:
        moments = sorted({moment for _, times, _ in found for moment in times})
        stacked = [
            [dict(zip(times, values, strict=True)).get(moment, 0.0) for moment in moments] for _, times, values in found
        ]
        axes.stackplot(_times(moments), stacked, labels=[name for name, _, _ in found], alpha=0.7)
    else:
        dashed = _dashed(panel)
        for name, times, values in found:
            axes.plot(_times(times), values, linewidth=1.2, label=name, linestyle="--" if dashed(name) else "-")
    if custom["scaleDistribution"]["type"] == "log":
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    else:
        axes.set_ylim(defaults.get("min"), defaults.get("max"))
    if custom["thresholdsStyle"]["mode"] == "dashed":
        for step in defaults["thresholds"]["steps"][1:]:
            axes.axhline(step["value"], color=COLORS[step["color"]], linestyle="--", linewidth=0.8)
    axes.yaxis.set_major_formatter(lambda value, _: _text(value, unit))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    _time_axis(axes, span)
    if found:
        axes.legend(fontsize=6, loc="upper left", framealpha=0.7)


def _states(axes: Axes, panel: dict[str, Any], span: Span) -> None:
    series = span.series(panel["targets"][0]["expr"])
    step = (span.end - span.start) / POINTS / 86_400
    for index, (labels, times, values) in enumerate(series):
        axes.text(
            0.01, (index + 0.5) / len(series), labels["instance"], transform=axes.transAxes, fontsize=7, va="center"
        )
        colors = [COLORS["green"] if value else COLORS["orange"] for value in values]
        axes.bar(_times(times), 0.8, bottom=index - 0.4, width=step * 1.05, color=colors)
    axes.set_yticks([])
    axes.set_ylim(-0.5, len(series) - 0.5)
    _time_axis(axes, span)


def _stat(axes: Axes, panel: dict[str, Any], span: Span) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    names = {
        key: shown["text"] for mapping in defaults.get("mappings", ()) for key, shown in mapping["options"].items()
    }
    found = [
        (value, _legend(target["legendFormat"], labels) if len(panel["targets"]) > 1 else "")
        for target in panel["targets"]
        for labels, value in span.last(target["expr"])
    ]
    if found:
        axes.set_facecolor(_color(min(value for value, _ in found), defaults["thresholds"]["steps"]))
    text = "\n".join(f"{names.get(f'{value:g}', _text(value, defaults['unit']))} {legend}" for value, legend in found)
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=15, color="white", weight="bold")
    axes.set(xticks=[], yticks=[])


def _gauges(axes: Axes, panel: dict[str, Any], span: Span) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    found = [
        (_legend(target["legendFormat"], labels), value)
        for target in panel["targets"]
        for labels, value in span.last(target["expr"])
    ]
    names, values = [name for name, _ in found], [value for _, value in found]
    axes.barh(names, values, color=[_color(value, defaults["thresholds"]["steps"]) for value in values])
    for index, value in enumerate(values):
        axes.text(value, index, f" {_text(value, defaults['unit'])}", va="center", fontsize=7)
    axes.set_xlim(0, defaults.get("max"))


def _heatmap(axes: Axes, panel: dict[str, Any], span: Span) -> None:
    series = [row for row in span.series(panel["targets"][0]["expr"]) if row[0]["le"] != "+Inf"]
    series.sort(key=lambda row: float(row[0]["le"]))
    moments = sorted({moment for _, times, _ in series for moment in times})
    rows = [
        [dict(zip(times, values, strict=True)).get(moment, 0.0) for moment in moments] for _, times, values in series
    ]
    counts = [
        [high - low for high, low in zip(row, before, strict=True)] for row, before in zip(rows[1:], rows, strict=False)
    ]
    if counts:
        axes.pcolormesh(_times(moments), range(len(counts)), counts, cmap="Oranges", shading="nearest")
        axes.set_yticks(range(len(counts)), [labels["le"] for labels, _, _ in series[1:]])
    _time_axis(axes, span)


def _table(axes: Axes, panel: dict[str, Any], span: Span) -> None:
    organized = panel["transformations"][-1]["options"]["renameByName"]
    units = {
        field["matcher"]["options"]: field["properties"][0]["value"] for field in panel["fieldConfig"]["overrides"]
    }
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for target in panel["targets"]:
        column = "Value" if len(panel["targets"]) == 1 else f"Value #{target['refId']}"
        for labels, value in span.last(target["expr"]):
            key = tuple(labels.get(name, "") for name in organized)
            cells = rows.setdefault(key, {name: labels.get(name, "") for name in organized})
            if column in organized:
                cells[column] = _text(value, units.get(organized[column], "short"))
    axes.axis("off")
    if rows:
        cells = [[row[name] for name in organized] for row in rows.values()]
        high = 0.13 * (len(cells) + 1)
        box = (0, 1 - high, 1, high)
        drawn = axes.table(cells, colLabels=list(organized.values()), bbox=box, cellLoc="left", edges="horizontal")
        drawn.auto_set_font_size(False)
        drawn.set_fontsize(8)


DRAWN = {
    "timeseries": _lines,
    "state-timeline": _states,
    "stat": _stat,
    "bargauge": _gauges,
    "heatmap": _heatmap,
    "table": _table,
}


def _dashed(panel: dict[str, Any]) -> Callable[[str], object]:
    overrides = panel["fieldConfig"]["overrides"]
    pattern = re.compile(overrides[0]["matcher"]["options"].strip("/")) if overrides else None
    return lambda name: pattern is not None and pattern.search(name)


def _numbers(samples: Sequence[tuple[float, str]]) -> tuple[list[float], list[float]]:
    values = [float(value) if math.isfinite(float(value)) else math.nan for _, value in samples]
    return [moment for moment, _ in samples], values


def _times(moments: Sequence[float]) -> list[datetime]:
    return [datetime.fromtimestamp(moment, UTC) for moment in moments]


def _time_axis(axes: Axes, span: Span) -> None:
    start, end = (float(dates.date2num(moment)) for moment in _times([span.start, span.end]))
    axes.set_xlim(start, end)
    form = "%H:%M" if span.end - span.start < 86_400 else "%a %H:%M"
    axes.xaxis.set_major_formatter(lambda moment, _: dates.num2date(moment).strftime(form))
    axes.xaxis.set_major_locator(dates.AutoDateLocator(maxticks=9))


def _legend(form: str, labels: dict[str, str]) -> str:
    if form == "__auto":
        return ", ".join(value for name, value in labels.items() if name != "__name__")[:60]
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), form)


def _color(value: float, steps: Sequence[dict[str, Any]]) -> str:
    colors = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return COLORS[colors[-1]]


def _text(value: float, unit: str) -> str:
    if not math.isfinite(value):
        return "∞"
    if unit == "percentunit":
        return f"{value:.0%}"
    if unit in ("s", "dtdurations") and value >= 60:
        minutes = value / 60
        return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
    if unit in ("s", "dtdurations"):
        return f"{value:.3g} s"
    for size, prefix in PREFIXES:
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g}"


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description="Draw the dashboards from a Prometheus.")
    parser.add_argument("url", help="the Prometheus, as http://host:9090")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    parser.add_argument("--namespace", default="gpner", help="the service; default: gpner")
    parser.add_argument("--minutes", type=float, default=180.0, help="how far back; default: 180")
    parser.add_argument("--rate-interval", default="1m", help="over how long rates are taken; default: 1m")
    parser.add_argument("--only", help="the name of one dashboard, such as overview")
    options = parser.parse_args()
    variables = {
        "namespace": options.namespace, "worker": ".*", "label": ".*", "__rate_interval": options.rate_interval,
        "__range": f"{options.minutes:.0f}m",
    }  # fmt: skip
    now = time.time()
    span = Span(options.url.rstrip("/"), now - 60 * options.minutes, now, variables)
    for path in sorted(FOLDER.glob(f"{options.only or '*'}.json")):
        render(json.loads(path.read_text(encoding="utf-8")), span, options.folder / f"{path.stem}.png")


if __name__ == "__main__":
    main()
