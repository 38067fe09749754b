"""What ships for Prometheus and Grafana, against what a node really exports."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from harness import alerts
from store.metrics import Gauges, Metrics, expose

MONITORING = files("store") / "monitoring"
PEERS = ("n2", "n3", "n4", "n5")


def exported() -> dict[str, str]:
    """Family -> kind of the page of a node of five that has seen a little trouble."""
    gauges = Gauges(
        keys=3,
        peers=4,
        peers_up=4,
        hints_pending={"n2": 1},
        uptime_ns=0,
        lags_ns=dict.fromkeys(PEERS, 1),
    )
    found: dict[str, str] = {}
    for line in expose(Metrics(), gauges).decode().splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            found[name] = kind
            if kind == "summary":
                found |= {f"{name}_count": "counter", f"{name}_sum": "counter"}
    return found


def expressions() -> list[str]:
    dashboard: Any = json.loads((MONITORING / "dashboard.json").read_text())
    rules = (MONITORING / "rules.yaml").read_text()
    return [
        *(target["expr"] for panel in dashboard["panels"] for target in panel["targets"]),
        *re.findall(r"expr: (.*)", rules),
    ]


@pytest.mark.parametrize("expression", expressions())
def test_what_rules_and_dashboard_ask_for_is_exported_and_only_counters_have_rates(expression: str) -> None:
    kinds = exported()
    rated = set(re.findall(r"(?:rate|increase)\((\w+)", expression))
    named = set(re.findall(r"\bdynamo_\w+", expression))
    assert named
    assert named <= kinds.keys()
    assert {
        name for name in named if kinds[name] == "counter" and name != "dynamo_bad_records_total"
    } == rated - {"dynamo_bad_records_total"}
    alerts.parse(expression if re.search(r"[<>]", expression) else f"{expression} > 0")


def test_every_metric_and_every_alert_stands_in_the_docs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
    names = [name for name in exported() if not name.endswith(("_sum", "_count"))]
    names += [rule.alert for rule in alerts.read(alerts.shipped())]
    assert [name for name in names if not re.search(rf"`{name}[`{{]", text)] == []


def test_every_panel_of_the_dashboard_has_a_place_and_a_name_of_its_own() -> None:
    panels: Any = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    places = {(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels}
    assert len(places) == len({p["title"] for p in panels}) == len({p["id"] for p in panels}) == len(panels)
