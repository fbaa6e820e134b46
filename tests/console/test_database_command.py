"""Commands on a database that no server of this version has prepared."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("command", [["issue_key", "x"], ["reset_password", "admin"], ["revoke_key", "abc"]])
def test_an_unprepared_database_is_one_line_that_says_what_to_do(command: list[str], tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "manage.py", *command],
        check=False,
        cwd=ROOT,
        env=os.environ | {"DATA_DIR": str(tmp_path), "DATABASE_URL": ""},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 1
    assert finished.stdout == ""
    assert "start the server once" in finished.stderr
    assert "Traceback" not in finished.stderr
