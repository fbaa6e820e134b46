"""Loads beside streams: nobody dies of them and no text changes. The long run: `make test-reliability`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.reliability.loads_beside_streams import LOADED, SERVED

ROOT = Path(__file__).resolve().parents[3]


def run_apart(*options: str, seconds: float) -> dict[str, Any]:
    """The campaign in a process of its own, which ends well or fails the test with its last words."""
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.reliability.loads_beside_streams", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, f"it ended with {done.returncode}: {done.stderr[-3000:]}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_few_loads_beside_streams_change_no_text() -> None:
    found = run_apart("--cycles", "2", seconds=300)
    assert found["differing"] == []
    assert found["loads"] == 2 * len(LOADED)
    assert set(found["compared"]) == set(SERVED)
