"""What is found of files before a model is loaded counts once, and no longer than they look the same."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest
from django.conf import LazySettings

from console.catalog.files import FilesChanged, check_files
from console.catalog.models import Arm, Deployment, Revision
from console.deployments import startup_checks
from console.deployments.startup_checks import StartupChecks, loaded_first
from tests.console.catalog.test_files import imported
from tests.inference.convert.hostile import model_folder

pytestmark = pytest.mark.django_db


@pytest.fixture
def revision(tmp_path: Path, settings: LazySettings) -> Revision:
    settings.DATA_DIR = tmp_path / "data"
    return imported(model_folder(tmp_path / "tiny"))


@pytest.fixture
def hashing(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Counts how often files are compared with their hashes."""
    counted = Mock(wraps=check_files)
    monkeypatch.setattr(startup_checks, "check_files", counted)
    return counted


def test_files_are_compared_once_for_the_first_load_and_anew_for_each_later_one(
    revision: Revision, hashing: Mock
) -> None:
    checks = StartupChecks()
    checks.begin([revision])
    checks.check(revision)
    assert hashing.call_count == 1
    checks.check(revision)
    assert hashing.call_count == 2


def test_altered_files_are_found(revision: Revision) -> None:
    (revision.path / "config.json").write_text("{}")
    checks = StartupChecks()
    checks.begin([revision])
    with pytest.raises(FilesChanged):
        checks.check(revision)


def test_files_that_are_altered_after_they_were_compared_are_found_too(revision: Revision) -> None:
    checks = StartupChecks()
    checks.begin([revision])
    checks._begun[revision.pk].result()
    (revision.path / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(FilesChanged):
        checks.check(revision)


def test_what_routes_lead_to_is_loaded_first(revision: Revision) -> None:
    assert list(loaded_first()) == [revision]
    Arm.objects.update(weight=0)
    assert list(loaded_first()) == []
    Arm.objects.update(weight=1)
    Deployment.objects.update(wanted=Deployment.Wanted.UNLOADED)
    assert list(loaded_first()) == []
