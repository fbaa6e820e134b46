"""The settings: database URLs, and what a log line may contain."""

from __future__ import annotations

import ast
import logging
from collections import Counter
from pathlib import Path

import pytest
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ImproperlyConfigured, ValidationError

from console import settings
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


def test_no_setting_is_made_twice() -> None:
    made = Counter(
        target.id
        for node in ast.parse(Path(settings.__file__).read_text()).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    )
    assert made["SESSION_COOKIE_SAMESITE"] == 1
    assert [name for name, number in made.items() if number > 1] == []


@pytest.mark.parametrize("password", ["short1", "password1234", "135792468013579"])
@pytest.mark.django_db
def test_a_weak_password_is_refused(password: str) -> None:
    with pytest.raises(ValidationError):
        validate_password(password)
