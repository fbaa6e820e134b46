"""kill -9 at every write of every transition leaves a legal rollout, whose next step is possible."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.flow.house import ROOT


def test_a_rollout_survives_kill_9_at_every_write(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.console.rollouts.killed"]
    data = tmp_path / "data"
    data.mkdir()
    environment = {**os.environ, "DATA_DIR": str(data), "DATABASE_URL": ""}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    kills = json.loads(done.stdout)
    assert min(kills.values()) >= 5, kills  # begin, row, audit entry and head, commit
