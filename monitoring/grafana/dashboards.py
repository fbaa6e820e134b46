"""The panel list as Grafana's dashboards: one a group, with variables for the data source and the model."""

from __future__ import annotations

from typing import Any

from monitoring.grafana.addresses import uid
from monitoring.panels.listing import GROUPS
from monitoring.panels.panel import Group, Line, Panel, Unit

SCHEMA_VERSION = 39
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
MODEL = 'model=~"$model"'
WIDTH, HEIGHT, COLUMNS = 12, 8, 24


def dashboards() -> dict[str, dict[str, Any]]:
    """File name -> dashboard."""
    return {f"{uid(group)}.json": dashboard(group) for group in GROUPS}


def dashboard(group: Group) -> dict[str, Any]:
    return {
        "uid": uid(group),
        "title": f"Pilothouse: {group.title}",
        "tags": ["pilothouse"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "10s",
        "timezone": "browser",
        "templating": {"list": [datasource_variable(), model_variable()]},
        "links": [
            {
                "type": "dashboards", "title": "Pilothouse", "tags": ["pilothouse"], "asDropdown": True,
                "includeVars": True, "keepTime": True,
            }
        ],
        "annotations": {"list": []},
        "panels": [panel_of(panel, place) for place, panel in enumerate(group.panels)],
    }  # fmt: skip


def datasource_variable() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def model_variable() -> dict[str, Any]:
    return {
        "name": "model",
        "label": "Model",
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": "label_values(pilothouse_engine_up, model)", "refId": "model"},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def panel_of(panel: Panel, place: int) -> dict[str, Any]:
    x, y = place * WIDTH % COLUMNS, place * WIDTH // COLUMNS * HEIGHT
    limits: dict[str, Any] = {"min": 0}
    if panel.unit is Unit.SHARE:
        limits["max"] = 1
    return {
        "id": place + 1,
        "type": "timeseries",
        "title": str(panel.title),
        "description": str(panel.description),
        "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit.value,
                "custom": {"drawStyle": "line", "lineWidth": 2, "fillOpacity": 8, "showPoints": "never"},
                **limits,
            },
            "overrides": [],
        },
        "options": {
            "legend": {
                "displayMode": "table",
                "placement": "bottom",
                "calcs": ["lastNotNull", "mean", "max"],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [target(panel, line, index) for index, line in enumerate(panel.lines)],
    }


def target(panel: Panel, line: Line, index: int) -> dict[str, Any]:
    words = [str(line.label), *(f"{{{{{label}}}}}" for label in line.query.by)]
    return {
        "refId": chr(ord("A") + index),
        "datasource": DATASOURCE,
        "expr": line.query.promql(window="$__rate_interval", model=MODEL),
        "legendFormat": " ".join(word for word in words if word) or str(panel.title),
        "editorMode": "code",
        "range": True,
    }
