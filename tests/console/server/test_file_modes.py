"""What lies on the disk is for the serving account alone, and the first secrets are in no log."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from console.management.commands.serve import Command
from console.server.file_modes import OpenToOthers, close_to_others, private_paths
from console.server.startup import FirstStart
from tests.test_house_rules import ROOT


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_what_others_may_read_is_closed_and_said(tmp_path: Path) -> None:
    data_dir, elsewhere = tmp_path / "data", tmp_path / "shared" / "base.sqlite3"
    for folder in (data_dir, elsewhere.parent):
        folder.mkdir()
        folder.chmod(0o755)
    files = [data_dir / "secrets.json", data_dir / "pilothouse.sqlite3-wal", elsewhere]
    files.append(elsewhere.with_name("base.sqlite3-shm"))
    for file in files:
        file.touch()
        file.chmod(0o644)
    said: list[str] = []
    close_to_others(private_paths(data_dir, str(elsewhere)), say=said.append)
    assert mode(data_dir) == 0o700 and {mode(file) for file in files} == {0o600}
    assert mode(elsewhere.parent) == 0o755  # not ours
    assert len(said) == 5
    close_to_others(private_paths(data_dir, str(elsewhere)), say=said.append)
    assert len(said) == 5


def test_what_cannot_be_closed_to_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_ours(self: Path, mode: int) -> None:
        raise PermissionError

    data_dir = tmp_path / "data"
    data_dir.mkdir()
    data_dir.chmod(0o755)
    monkeypatch.setattr(Path, "chmod", not_ours)
    with pytest.raises(OpenToOthers, match="0755"):
        close_to_others(private_paths(data_dir, "name"), say=print)


def test_a_group_that_is_not_ours_to_change_is_no_reason_not_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    data_dir.chmod(0o2770)
    monkeypatch.setattr(Path, "chmod", lambda self, mode: None)
    close_to_others(private_paths(data_dir, "name"), say=print)


def test_the_first_secrets_are_written_for_this_account_alone(tmp_path: Path) -> None:
    path = tmp_path / "first-sign-in.txt"
    path.touch()
    path.chmod(0o666)
    FirstStart("admin", "a-password", "ph_key").write_down(path)
    assert mode(path) == 0o600
    assert "admin / a-password" in path.read_text() and "ph_key" in path.read_text()


class Output(io.StringIO):
    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.mark.django_db
@pytest.mark.parametrize("is_terminal", [True, False])
def test_secrets_are_shown_on_a_terminal_alone(is_terminal: bool) -> None:
    """A log, a journal and a container's output are none."""
    output = Output(is_terminal=is_terminal)
    Command(stdout=output)._announce(FirstStart("admin", "a-password", "ph_key"))
    said = output.getvalue()
    assert ("a-password" in said) == ("Bearer ph_key" in said) == is_terminal
    assert "first-sign-in.txt" in said and "curl" in said


def test_whatever_a_command_makes_is_for_this_account_alone(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    environment = os.environ | {"DATA_DIR": str(data_dir), "DATABASE_URL": ""}
    for command in (["migrate", "-v0"], ["issue_key", "one"]):
        subprocess.run(
            ["sh", "-c", 'umask 022; exec "$@"', "sh", sys.executable, "manage.py", *command],
            cwd=ROOT,
            env=environment,
            check=True,
            capture_output=True,
        )
    made = [data_dir, *data_dir.rglob("*")]
    assert len(made) > 3
    assert [path for path in made if mode(path) & 0o077] == []
