"""Where people may import files from: nobody learns by asking what else lies on the server."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from console.audit.actor import Actor
from console.catalog import import_request as module
from console.catalog.actions import start_import
from console.catalog.import_request import ImportRefused
from console.environment import Environment, environment
from console.jobs.models import Job
from tests.inference.convert.hostile import model_folder, tiny_gguf

pytestmark = pytest.mark.django_db


@pytest.fixture
def allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    changed = environment().model_copy(update={"import_folders": (str(folder), "/srv/none")})
    monkeypatch.setattr(module, "environment", lambda: changed)
    return folder


def said(source: str, location: str) -> str:
    with pytest.raises(ImportRefused) as refused:
        start_import(actor=Actor.person("mia"), name="tiny", source=source, location=location)
    assert refused.value.field == "location"
    return str(refused.value)


@pytest.mark.parametrize("source", ["folder", "gguf"])
def test_paths_elsewhere_are_refused_in_the_same_words_whether_or_not_they_exist(
    allowed: Path, tmp_path: Path, source: str
) -> None:
    there = model_folder(tmp_path / "elsewhere")
    file = tmp_path / "file.gguf"
    tiny_gguf(file)
    (allowed / "link").symlink_to(there)
    (allowed / "loop").symlink_to(allowed / "loop")
    probes = [
        *("/", "/etc", "/etc/passwd", "/etc/passwd/x", "/root/.ssh", "/no/such/place", str(there), str(file)),
        *(
            f"{allowed}/../elsewhere",
            f"{allowed}/../nothing",
            f"{allowed}/link",
            f"{allowed}-2",
            "/" + "x" * 300,
        ),
    ]
    assert len({said(source, probe) for probe in probes}) == 1
    assert "IMPORT_FOLDERS" in said(source, probes[0])
    assert "IMPORT_FOLDERS" not in said(source, f"{allowed}/nothing")
    assert "IMPORT_FOLDERS" not in said(source, f"{allowed}/loop")
    assert not Job.objects.exists()


def test_what_lies_in_one_of_them_is_imported(allowed: Path) -> None:
    inside = model_folder(allowed / "tiny")
    (allowed / "by-link").symlink_to(inside)
    file = allowed / "tiny.gguf"
    tiny_gguf(file)
    for number, (source, path) in enumerate(
        [("folder", inside), ("folder", allowed / "by-link"), ("gguf", file)]
    ):
        start_import(actor=Actor.person("mia"), name=f"tiny{number}", source=source, location=str(path))
    assert Job.objects.count() == 3


@pytest.mark.parametrize("source", ["folder", "gguf"])
@pytest.mark.parametrize("location", ["/" + "x" * 300, "/" + "x/" * 2000, "/dev/null/x", "/proc/1/root/x"])
def test_a_path_that_cannot_be_looked_at_is_refused_in_words(source: str, location: str) -> None:
    assert said(source, location)


def test_a_relative_folder_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPORT_FOLDERS", "/srv/models, models")
    with pytest.raises(ValidationError):
        Environment()
