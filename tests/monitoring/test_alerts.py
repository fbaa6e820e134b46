"""The alert rules: promtool reads them, each fires when it should and not when it should not, and each has
its line in docs/operations.md."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.collect import exposition
from tests.test_house_rules import ROOT

RULES = ROOT / "monitoring" / "alerts" / "rules.yml"
CASES = Path(__file__).with_name("alerts.yml")
OF_OTHERS = {"up", "node_filesystem_avail_bytes", "node_filesystem_size_bytes"}


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("command", [("check", RULES), ("test", CASES)], ids=["check", "test"])
def test_promtool_is_content(command: tuple[str, Path]) -> None:
    verb, path = command
    done = subprocess.run(["promtool", verb, "rules", path], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tested_to_fire() -> None:
    cases = yaml.safe_load(CASES.read_text())["tests"]
    tried = [one for case in cases for one in case["alert_rule_test"]]
    assert {one["alertname"] for one in tried if one["exp_alerts"]} == {one["alert"] for one in alerts()}


def test_each_alert_has_a_runbook_line() -> None:
    document = (ROOT / "docs" / "operations.md").read_text()
    for alert in alerts():
        runbook = alert["annotations"]["runbook"]
        assert runbook == f"docs/operations.md#{alert['alert'].lower()}"
        assert f'<a id="{alert["alert"].lower()}"></a>`{alert["alert"]}`' in document
    assert document.count("<a id=") == len(alerts())


def test_alerts_ask_for_metrics_that_there_are() -> None:
    known = set(OF_OTHERS)
    for family in exposition().collect():
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        known |= {family.name + ending for ending in endings}
    for alert in alerts():
        names = re.findall(r"\b(up|(?:pilothouse|node|process)_[a-z_]+)\b", alert["expr"])
        assert names and set(names) <= known, alert["alert"]
