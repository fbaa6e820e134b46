"""The environment: secrets that are made once, whoever comes first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from console.environment import Environment, kept_secret


def test_a_secret_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    secret = kept_secret(folder, "one")
    assert len(secret) >= 64
    assert kept_secret(folder, "one") == secret != kept_secret(folder, "other")
    assert (folder / "secrets.json").stat().st_mode & 0o077 == 0


def test_processes_that_start_together_agree_on_their_secrets(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from console.environment import kept_secret; "
        "sys.stdin.readline(); print(*[kept_secret(Path(sys.argv[1]), str(n)) for n in range(20)])"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    starts = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for start in starts:
        assert start.stdin is not None
        start.stdin.write("go\n")
        start.stdin.flush()
    assert len({start.communicate()[0] for start in starts}) == 1


def test_a_value_that_makes_no_sense_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "99999")
    with pytest.raises(ValidationError):
        Environment()


def test_lists_are_split_at_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOWED_HOSTS", "a.example, b.example,")
    assert Environment().allowed_hosts == ("a.example", "b.example")


def test_no_secret_shows_in_a_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_PEPPER", "very secret")
    assert "very secret" not in repr(Environment())


def test_secrets_may_come_as_files_and_the_environment_counts_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    (tmp_path / "database_url").write_text("postgresql://house@db/house\n")
    (tmp_path / "redis_url").write_text("redis://of-the-file")
    monkeypatch.setenv("DATABASE_URL", "")
    read = Environment(_env_file=None, _secrets_dir=tmp_path)
    assert (read.database_url, read.redis_url) == ("postgresql://house@db/house", "redis://of-the-file")
    monkeypatch.setenv("REDIS_URL", "redis://of-the-environment")
    assert Environment(_env_file=None, _secrets_dir=tmp_path).redis_url == "redis://of-the-environment"
