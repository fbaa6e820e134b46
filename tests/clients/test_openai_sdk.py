"""The official SDKs, each in an environment of its own, against the real server with the real model."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.clients.served import MODEL, Served, node_with, python_with

pytestmark = [pytest.mark.server, pytest.mark.model]

HERE = Path(__file__).parent
PYTHON_SCENARIOS = HERE / "openai_scenarios.py"
NODE_SCENARIOS = HERE / "openai_scenarios.mjs"
MAJORS = {"2": "openai>=2.45,<3", "3": "openai>=3.54,<4"}


def python_names() -> list[str]:
    """The names in the list SCENARIOS, without importing the SDK."""
    for node in ast.parse(PYTHON_SCENARIOS.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SCENARIOS":
            return [ast.unparse(element) for element in node.value.elts]  # type: ignore[attr-defined]
    raise AssertionError("no SCENARIOS")


def node_names() -> list[str]:
    return re.findall(r"^  async (\w+)\(\)", NODE_SCENARIOS.read_text(), re.MULTILINE)


def report_of(command: list[str], folder: Path) -> dict[str, Any]:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


@cache
def python_report(major: str, url: str, key: str) -> dict[str, Any]:
    python = python_with(f"openai-{major}", MAJORS[major])
    report = report_of([str(python), str(PYTHON_SCENARIOS), f"{url}/v1", key, MODEL], python.parent)
    assert report["version"].split(".")[0] == major
    return report


@cache
def node_report(url: str, key: str) -> dict[str, Any]:
    folder = node_with("openai-node", "openai@7")
    shutil.copy(NODE_SCENARIOS, folder)  # node looks for packages beside the script
    return report_of(["node", NODE_SCENARIOS.name, f"{url}/v1", key, MODEL], folder)


@pytest.mark.parametrize("major", MAJORS)
@pytest.mark.parametrize("scenario", python_names())
def test_python_sdk(served: Served, major: str, scenario: str) -> None:
    outcome = python_report(major, served.url, served.key)["results"][scenario]
    assert outcome == "ok", outcome


@pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="node and npm are not here")
@pytest.mark.parametrize("scenario", node_names())
def test_javascript_sdk(served: Served, scenario: str) -> None:
    outcome = node_report(served.url, served.key)["results"][scenario]
    assert outcome == "ok", outcome
