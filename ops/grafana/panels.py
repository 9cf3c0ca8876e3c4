"""Pieces of Grafana dashboards: what every panel of ours has in common is said once, here.

A panel is a dictionary in Grafana's own JSON model (schemaVersion 42, that of `@grafana/schema` 13), without its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

Json = dict[str, Any]
# Width, of 24 columns, and height, of about 30 pixels each.
Size = tuple[int, int]
# A heading and its panels.
Row = tuple[str, Sequence[Json]]

SCHEMA_VERSION = 42
DATASOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
# Selectors: series of one service, and of the chosen workers of it.
SERVICE = 'namespace="$namespace"'
WORKERS = 'namespace="$namespace", instance=~"$worker"'


@dataclass(frozen=True)
class Query:
    """One PromQL query of a panel.

    Attributes:
        expression: What is asked; Grafana's variables are allowed.
        legend: What each series is called; labels in double braces.
        kind: `range` for lines, `instant` for the last value alone, `table` for rows, `heatmap` for buckets.
    """

    expression: str
    legend: str = ""
    kind: Literal["range", "instant", "table", "heatmap"] = "range"


def quantile(share: float, histogram: str, *by: str, over: str = "$__rate_interval") -> str:
    """A query: below which value such a share lies of what the chosen workers counted, for each value of labels."""
    labels = ", ".join(("le", *by))
    return f"histogram_quantile({share}, sum by ({labels}) (rate({histogram}_bucket{{{WORKERS}}}[{over}])))"


def stat(
    title: str, size: Size, description: str, queries: Sequence[Query], *, unit: str = "short", **field: Any
) -> Json:
    """Numbers in large type, coloured by `steps`."""
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "background",
        "graphMode": "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "auto",
    }
    return _panel("stat", title, size, description, queries, options, _field(unit, **field))


def lines(
    title: str,
    size: Size,
    description: str,
    queries: Sequence[Query],
    *,
    unit: str = "short",
    stacked: bool = False,
    as_bars: bool = False,
    logarithmic: bool = False,
    from_zero: bool = True,
    dashed: str = "",
    **field: Any,
) -> Json:
    """Series over time, with a table of their means and last values below; `dashed` matches names of series."""
    custom: Json = {
        "drawStyle": "bars" if as_bars else "line",
        "fillOpacity": 60 if as_bars else 20 if stacked else 0,
        "lineWidth": 1,
        "showPoints": "never",
        "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
        "scaleDistribution": {"type": "log", "log": 10} if logarithmic else {"type": "linear"},
        "thresholdsStyle": {"mode": "dashed" if "steps" in field else "off"},
    }
    options = {
        "legend": {"calcs": ["mean", "lastNotNull"], "displayMode": "table", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    defaults: Json = {"color": {"mode": "palette-classic"}, **field}
    if from_zero and not logarithmic:
        defaults["min"] = 0
    shown = _field(unit, custom, **defaults)
    if dashed:
        dashes = {"id": "custom.lineStyle", "value": {"dash": [6, 6], "fill": "dash"}}
        shown["overrides"] = [{"matcher": {"id": "byRegexp", "options": dashed}, "properties": [dashes]}]
    return _panel("timeseries", title, size, description, queries, options, shown)


def states(title: str, size: Size, description: str, queries: Sequence[Query], mappings: Sequence[Json]) -> Json:
    """A band for each series, coloured by what each value is called."""
    options = {
        "mergeValues": True,
        "showValue": "never",
        "alignValue": "left",
        "rowHeight": 0.8,
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "single", "sort": "none"},
    }
    field = _field("short", {"fillOpacity": 70, "lineWidth": 0}, mappings=list(mappings))
    return _panel("state-timeline", title, size, description, queries, options, field)


def table(
    title: str,
    size: Size,
    description: str,
    queries: Sequence[Query],
    *,
    columns: dict[str, str],
    units: dict[str, str],
) -> Json:
    """Rows of labels and values.

    `columns` are what is shown, in this order: names of labels and of values (`Value #A`), and what they are called;
    `units` are those of columns, by what they are called.
    """
    transformations = [
        {"id": "merge", "options": {}},
        {"id": "filterFieldsByName", "options": {"include": {"names": list(columns)}}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {},
                "indexByName": {name: index for index, name in enumerate(columns)},
                "renameByName": columns,
            },
        },
    ]
    field = _field("short", {"align": "auto", "cellOptions": {"type": "auto"}, "inspect": False})
    field["overrides"] = [
        {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "unit", "value": unit}]}
        for name, unit in units.items()
    ]
    panel = _panel("table", title, size, description, queries, {"showHeader": True, "cellHeight": "sm"}, field)
    return panel | {"transformations": transformations}


def gauges(
    title: str, size: Size, description: str, queries: Sequence[Query], *, unit: str = "short", **field: Any
) -> Json:
    """One bar for each series."""
    options = {
        "displayMode": "basic",
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": False},
        "orientation": "horizontal",
        "showUnfilled": True,
        "valueMode": "color",
        "namePlacement": "auto",
        "sizing": "auto",
        "minVizHeight": 16,
        "minVizWidth": 8,
        "maxVizHeight": 300,
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    return _panel("bargauge", title, size, description, queries, options, _field(unit, **field))


def heatmap(title: str, size: Size, description: str, query: Query) -> Json:
    """The buckets of a histogram over time."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {
            "mode": "scheme",
            "scheme": "Oranges",
            "steps": 64,
            "fill": "dark-orange",
            "exponent": 0.5,
            "reverse": False,
        },
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "yHistogram": True},
        "yAxis": {"axisPlacement": "left", "reverse": False},
    }
    field = {"defaults": {"custom": {"scaleDistribution": {"type": "linear"}}}, "overrides": []}
    return _panel("heatmap", title, size, description, [query], options, field)


def dashboard(
    uid: str, title: str, description: str, rows: Sequence[Row], *, hours: int, variables: Sequence[Json] = ()
) -> Json:
    """The dashboard: places all panels from left to right, and numbers them in their order.

    Args:
        uid: In its address for ever.
        title: Its name.
        description: What it is for.
        rows: Its content.
        hours: How far back it looks at first.
        variables: What can be chosen beside data source, service and worker.
    """
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["gpner"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "timezone": "browser",
        "time": {"from": f"now-{hours}h", "to": "now"},
        "templating": {"list": [*_variables(), *variables]},
        "annotations": {"list": [_new_models()]},
        "links": [
            {
                "title": "gpner", "type": "dashboards", "tags": ["gpner"], "icon": "external link", "tooltip": "",
                "asDropdown": False, "includeVars": True, "keepTime": True, "targetBlank": False,
            }
        ],
        "panels": _placed(rows),
    }  # fmt: skip


def choice(name: str, label: str, metric: str, of: str) -> Json:
    """A variable of many values, all of them at first: those of the label `of` in the series `metric`."""
    everything = {"text": ["All"], "value": ["$__all"], "selected": True}
    return _variable(name, label, metric, of) | {
        "multi": True, "includeAll": True, "allValue": ".*", "current": everything
    }  # fmt: skip


def below(*steps: tuple[float, str]) -> list[Json]:
    """Thresholds: each colour holds from its value on, the first one from minus infinity."""
    return [{"value": None if index == 0 else value, "color": color} for index, (value, color) in enumerate(steps)]


def _variables() -> list[Json]:
    return [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1},
        _variable("namespace", "Service", 'up{job="gpner-worker"}', "namespace"),
        choice("worker", "Worker", f"gpner_ready{{{SERVICE}}}", "instance"),
    ]


def _variable(name: str, label: str, metric: str, of: str) -> Json:
    values = f"label_values({metric}, {of})"
    return {
        "name": name, "label": label, "type": "query", "datasource": DATASOURCE, "refresh": 2, "sort": 1,
        "query": {"query": values, "refId": name, "qryType": 1},
    }  # fmt: skip


def _new_models() -> Json:
    served = "count by (model, revision) (gpner_model_info{%s}%s)"
    return {
        "name": "New models", "datasource": DATASOURCE, "enable": True, "iconColor": "purple",
        "expr": f"{served % (SERVICE, '')} unless {served % (SERVICE, ' offset 5m')}",
        "titleFormat": "{{model}} {{revision}}", "step": "60s",
    }  # fmt: skip


def _panel(
    kind: str, title: str, size: Size, description: str, queries: Sequence[Query], options: Json, field_config: Json
) -> Json:
    return {
        "type": kind,
        "title": title,
        "description": description,
        "gridPos": {"w": size[0], "h": size[1]},
        "datasource": DATASOURCE,
        "targets": [_target(query, chr(ord("A") + index)) for index, query in enumerate(queries)],
        "options": options,
        "fieldConfig": field_config,
    }


def _target(query: Query, name: str) -> Json:
    return {
        "refId": name,
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": query.expression,
        "legendFormat": "{{le}}" if query.kind == "heatmap" else query.legend or "__auto",
        "range": query.kind in ("range", "heatmap"),
        "instant": query.kind in ("instant", "table"),
        "format": {"table": "table", "heatmap": "heatmap"}.get(query.kind, "time_series"),
    }


def _field(unit: str, custom: Json | None = None, *, steps: Sequence[Json] = (), **more: Any) -> Json:
    """How values are shown; `more` are fields of Grafana's: min, max, decimals, mappings, color."""
    thresholds = {"mode": "absolute", "steps": list(steps) or below((0, "green"))}
    defaults = {"unit": unit, "thresholds": thresholds, "color": {"mode": "thresholds"}, **more}
    return {"defaults": defaults | ({"custom": custom} if custom else {}), "overrides": []}


def _placed(rows: Sequence[Row]) -> list[Json]:
    """Number panels in their order and place them from left to right, row below row."""
    placed: list[Json] = []
    numbers = count(1)
    y = 0
    for title, panels in rows:
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        placed.append(
            {"id": next(numbers), "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        )
        y += 1
        x = tallest = 0
        for panel in panels:
            width, height = panel["gridPos"]["w"], panel["gridPos"]["h"]
            if x + width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            placed.append({"id": next(numbers), **panel, "gridPos": {"x": x, "y": y, "w": width, "h": height}})
            x, tallest = x + width, max(tallest, height)
        y += tallest
    return placed
