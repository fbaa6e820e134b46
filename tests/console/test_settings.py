"""The settings: database URLs, and what a log line may contain."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from console.log_redaction import OneLine
from console.settings import database


def test_no_url_is_sqlite_in_the_data_dir() -> None:
    entry = database("")
    assert entry["ENGINE"].endswith("sqlite3") and entry["NAME"].endswith("/pilothouse.sqlite3")
    assert entry["OPTIONS"]["transaction_mode"] == "IMMEDIATE"


def test_four_slashes_are_an_absolute_path_and_three_a_relative_one() -> None:
    assert database("sqlite:////var/lib/a%20b.db")["NAME"] == "/var/lib/a b.db"
    assert database("sqlite:///a.db")["NAME"] == str(Path.cwd() / "a.db")


def test_a_postgres_url_is_taken_apart() -> None:
    entry = database("postgresql://me:p%40ss%2Fword@db.example:5433/house?sslmode=require")
    assert (entry["USER"], entry["PASSWORD"], entry["HOST"]) == ("me", "p@ss/word", "db.example")
    assert (entry["PORT"], entry["NAME"], entry["OPTIONS"]["sslmode"]) == (5433, "house", "require")
    assert entry["OPTIONS"]["pool"]["max_size"] >= 8
    assert database("postgres://me@%2Frun%2Fpg/house")["HOST"] == "/run/pg"


@pytest.mark.parametrize("url", ["mysql://x/y", "sqlite://", "postgresql://host", "house.db"])
def test_another_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ImproperlyConfigured) as refusal:
        database(url)
    assert "DATABASE_URL" in str(refusal.value)


def formatted(message: str, *args: object) -> str:
    return OneLine("%(levelname)s %(message)s").format(
        logging.LogRecord("x", logging.INFO, "", 0, message, args, None)
    )


def test_a_key_that_reaches_a_log_is_cut() -> None:
    line = formatted("refused %s", "Bearer ph_0123456789ab_SECRETsecretSECRETsecretSECRETsecretabc123")
    assert line == "INFO refused Bearer ph_0123456789ab_[secret]"


def test_no_field_can_forge_a_log_line_or_colour_a_terminal() -> None:
    line = formatted("user %s", "eve\r\nERROR everything is lost\x1b[31m\x9b")
    assert len(line.splitlines()) == 1
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in line)
