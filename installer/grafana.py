"""Dashboards as Grafana imports them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from installer.panels import Dashboard, Panel, Variable, View

_COLUMNS = 24
_HEIGHT = {View.STAT: 4, View.TIME_SERIES: 8, View.TABLE: 9}
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def to_grafana(dashboard: Dashboard) -> str:
    """The text of its file."""
    made: dict[str, object] = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["meshnode"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "",
        "templating": {"list": [_data_source(), *map(_variable, dashboard.variables)]},
        "panels": _laid_out(dashboard.panels),
    }
    return json.dumps(made, indent=2) + "\n"


def query_text(expr: str) -> str:
    """An expression with Grafana's own window."""
    return expr.replace("$rate", "$__rate_interval")


def variable_query(variable: Variable) -> str:
    """What fills a choice."""
    return f"label_values({variable.metric}, {variable.label})"


def _laid_out(panels: Sequence[Panel]) -> list[dict[str, object]]:
    """Left to right, a new row where a panel does not fit any more."""
    made: list[dict[str, object]] = []
    x = y = row_height = 0
    for number, panel in enumerate(panels, start=1):
        height = _HEIGHT[panel.view]
        if x + panel.width > _COLUMNS or height != row_height:
            x, y, row_height = 0, y + row_height, height
        place = {"x": x, "y": y, "w": panel.width, "h": height}
        made.append({"id": number, "gridPos": place, **_panel(panel)})
        x += panel.width
    return made


def _panel(panel: Panel) -> dict[str, object]:
    at_once = panel.view is not View.TIME_SERIES
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": _SOURCE,
            "expr": query_text(query.expr),
            "legendFormat": query.legend or "__auto",
            "instant": at_once,
            "range": not at_once,
            **({"format": "table"} if panel.view is View.TABLE else {}),
        }
        for number, query in enumerate(panel.queries)
    ]
    return {
        "type": str(panel.view),
        "title": panel.title,
        "datasource": _SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": {"unit": str(panel.unit), "min": 0}, "overrides": []},
    }


def _data_source() -> dict[str, object]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Source"}


def _variable(variable: Variable) -> dict[str, object]:
    query = variable_query(variable)
    return {
        "name": variable.name,
        "type": "query",
        "datasource": _SOURCE,
        "definition": query,
        "query": {"query": query, "refId": variable.name},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": ["All"], "value": ["$__all"]},
        "sort": 1,
    }
