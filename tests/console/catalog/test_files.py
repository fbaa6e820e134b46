"""Files of revisions: other settings share them, deleting gives the disk back and never what is in use."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from pytest_django import DjangoCaptureOnCommitCallbacks

from console.audit.actor import Actor
from console.audit.models import Entry
from console.catalog.actions import DeleteRefused, delete_files, derive, import_model
from console.catalog.files import KEPT_SECONDS, check_files, sweep, target_of
from console.catalog.import_request import ImportRefused, ImportRequest
from console.catalog.models import Deployment, Revision, Route
from console.catalog.routes import BadRoute, set_shares, shares
from console.jobs.models import Job
from tests.inference.convert.hostile import model_folder

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, settings: LazySettings) -> Path:
    settings.DATA_DIR = tmp_path / "data"
    return tmp_path / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "tiny")


def imported(folder: Path, **wish: Any) -> Revision:
    request = ImportRequest(**{"name": "tiny", "source": "folder", "location": str(folder), **wish})
    return import_model(actor=Actor.person("mia"), request=request, progress=lambda stage, fraction: None)


@pytest.fixture
def ours(folder: Path) -> Revision:
    """A revision whose files lie in DATA_DIR and that nobody uses."""
    imported(folder)
    return imported(folder, quantize="int8")


def unload(revision: Revision) -> None:
    Deployment.objects.filter(revision=revision).update(wanted=Deployment.Wanted.UNLOADED)


def test_other_settings_make_a_child_that_shares_the_files(ours: Revision) -> None:
    child = derive(actor=Actor.person("ben"), revision=ours, engine={"num_blocks": 64})
    assert (child.parent, child.folder, child.files, child.facts) == (
        ours,
        ours.folder,
        ours.files,
        ours.facts,
    )
    assert child.engine == {"num_blocks": 64} and child.model == ours.model and child.id != ours.id
    assert derive(actor=Actor.person("ben"), revision=ours, engine={"num_blocks": 64}) == child
    entry = Entry.objects.get(action="catalog.import", target=child.id)
    assert entry.actor == "ben" and json.loads(entry.detail)["parent"] == ours.id
    assert ours.id not in shares(Route.objects.get(name="tiny"))
    with pytest.raises(ImportRefused) as refused:
        derive(actor=Actor.person("ben"), revision=ours, engine={"blocks": 64})
    assert refused.value.field == "engine.blocks"


def test_deleting_marks_removes_and_is_audited(
    ours: Revision, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        delete_files(actor=Actor.person("ben", ip="10.0.0.1"), revision=ours)
    deployment = Deployment.objects.get(revision=ours)
    assert deployment.files_deleted_at is not None and not ours.path.exists()
    entry = Entry.objects.get(action="catalog.delete_files")
    assert (entry.actor, entry.target, entry.ip) == ("ben", ours.id, "10.0.0.1")
    with pytest.raises(BadRoute, match="deleted"):
        set_shares(actor=Actor.person("ben"), name="tiny", weights={ours.id: 100})
    ours.refresh_from_db()
    with pytest.raises(ImportRefused, match="deleted"):
        derive(actor=Actor.person("ben"), revision=ours, engine={"num_blocks": 64})
    delete_files(actor=Actor.person("ben"), revision=ours)
    assert Entry.objects.filter(action="catalog.delete_files").count() == 1


def test_a_crash_between_mark_and_removal_is_made_good_by_the_next_sweep(ours: Revision) -> None:
    delete_files(
        actor=Actor.person("ben"), revision=ours
    )  # its transaction never commits here: nothing is removed yet
    assert ours.path.exists()
    sweep()
    assert not ours.path.exists() and not list(ours.path.parent.glob(".deleted-*"))


def test_a_crash_in_the_midst_of_removing_leaves_nothing_that_looks_whole(ours: Revision) -> None:
    half = ours.path.parent / ".deleted-half"
    shutil.copytree(ours.path, half)
    sweep()
    assert not half.exists() and ours.path.exists()


def test_a_folder_outside_is_forgotten_and_not_removed(folder: Path) -> None:
    first = imported(folder)
    set_shares(actor=Actor.person("ben"), name="tiny", weights={})
    unload(first)
    delete_files(actor=Actor.person("ben"), revision=first)
    sweep()
    assert Deployment.objects.get(revision=first).files_deleted_at and (folder / "config.json").exists()


def test_what_is_in_use_is_kept(ours: Revision) -> None:
    deployment = Deployment.objects.filter(revision=ours)
    first = Revision.objects.exclude(pk=ours.pk).get()
    for weights in ({ours.id: 100}, {first.id: 100, ours.id: 0}):
        set_shares(actor=Actor.person("ben"), name="tiny", weights=weights)
        unload(ours)
        with pytest.raises(DeleteRefused, match="arm of the route tiny"):
            delete_files(actor=Actor.person("ben"), revision=ours)
    set_shares(actor=Actor.person("ben"), name="tiny", weights={first.id: 100})
    deployment.update(wanted=Deployment.Wanted.LOADED)
    with pytest.raises(DeleteRefused, match="wanted loaded"):
        delete_files(actor=Actor.person("ben"), revision=ours)
    deployment.update(wanted=Deployment.Wanted.UNLOADED)
    for state in ("waiting", "loading", "ready", "unloading"):
        deployment.update(state=state)
        with pytest.raises(DeleteRefused, match=state):
            delete_files(actor=Actor.person("ben"), revision=ours)
    deployment.update(state="absent")
    job = Job.objects.create(kind="quantize", where="worker", subject=ours.id, actor="mia")
    with pytest.raises(DeleteRefused, match=job.pk):
        delete_files(actor=Actor.person("ben"), revision=ours)
    job.delete()
    sweep()
    check_files(ours)
    assert not Entry.objects.filter(action="catalog.delete_files").exists()


def test_a_shared_folder_goes_for_all_or_for_none(ours: Revision) -> None:
    child = derive(actor=Actor.person("ben"), revision=ours, engine={"num_blocks": 64})
    Deployment.objects.filter(revision=child).update(state="ready")
    with pytest.raises(DeleteRefused, match=f"{child.id}, which shares the folder"):
        delete_files(actor=Actor.person("ben"), revision=ours)
    Deployment.objects.filter(revision=child).update(state="absent")
    delete_files(actor=Actor.person("ben"), revision=child)
    assert not Deployment.objects.filter(revision__in=[ours, child], files_deleted_at=None).exists()
    sweep()
    assert not ours.path.exists()


def test_files_that_are_imported_again_are_back_where_they_were(folder: Path, ours: Revision) -> None:
    child = derive(actor=Actor.person("ben"), revision=ours, engine={"num_blocks": 64})
    delete_files(actor=Actor.person("ben"), revision=ours)
    for is_swept in (True, False):
        if is_swept:
            sweep()
        assert imported(folder, quantize="int8") == ours
        check_files(ours)
        check_files(child)
        assert not Deployment.objects.exclude(files_deleted_at=None).exists()
        delete_files(actor=Actor.person("ben"), revision=ours)
    assert Entry.objects.filter(action="catalog.restore_files").count() == 2


def test_leftovers_are_swept_and_what_others_put_there_is_not(ours: Revision) -> None:
    models = ours.path.parent
    failed = Job.objects.create(
        kind="import", where="worker", subject="x", arguments={"name": "x"}, state="failed", actor="mia"
    )
    running = Job.objects.create(
        kind="import", where="worker", subject="x", arguments={"name": "x"}, state="running", actor="mia"
    )
    for folder in (
        target_of("x", failed.pk),
        target_of("x", running.pk),
        models / ".x.part",
        models / "mine",
    ):
        folder.mkdir()
    sweep()
    assert {path.name for path in models.iterdir() if path.is_dir()} == {
        ours.path.name, target_of("x", running.pk).name, "mine"
    }  # fmt: skip


def test_transfers_that_nobody_goes_on_with_are_forgotten(data_dir: Path) -> None:
    old, fresh = (data_dir / "downloads" / "hub" / f"a--b@{number}" for number in (1, 2))
    for folder in (old, fresh):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(bytes(1000))
    long_ago = time.time() - KEPT_SECONDS - 60
    os.utime(old, (long_ago, long_ago))
    sweep()
    assert not old.exists() and (fresh / "model.safetensors").stat().st_size == 1000
