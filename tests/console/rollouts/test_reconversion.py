"""What an earlier converter made is converted anew at a start: another revision, to which routes lead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings

from console.audit.actor import Actor
from console.audit.models import Entry
from console.audit.verify import verify
from console.catalog.actions import DEFAULT_MODEL
from console.catalog.conversion import Converted
from console.catalog.models import Deployment, Revision
from console.catalog.routes import set_shares
from console.catalog.sources.package import PackageRefused
from console.rollouts import reconversion
from console.rollouts.reconversion import SOURCE, is_outdated, renew
from inference.config import GGUF_CONVERTER
from tests.catalog_rows import make_revision, serve
from tests.console.rollouts.rows import begun, shares_of

pytestmark = pytest.mark.django_db

OLD_FILES = {"tokenizer.json": {"sha256": "a" * 64, "size": 3}}
NEW_FILES = {"tokenizer.json": {"sha256": "b" * 64, "size": 4}}


@pytest.fixture(autouse=True)
def conversions(tmp_path: Path, settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where the default model was converted to, without doing it."""
    settings.DATA_DIR = tmp_path
    targets: list[Path] = []

    def convert(package: Any, *, data_dir: Path, target: Path, progress: Any) -> Converted:
        targets.append(target)
        return Converted(target, NEW_FILES, {"converter": GGUF_CONVERTER})

    monkeypatch.setattr(reconversion, "from_package", convert)
    return targets


def silent(stage: str, fraction: float) -> None:
    pass


def start() -> None:
    renew(actor=Actor.system("serve"), progress=silent)


def old_default(revision: str = "old", **columns: Any) -> Revision:
    position = {"source": SOURCE, "files": OLD_FILES, "folder": "models/smollm2-135m"} | columns
    return make_revision(DEFAULT_MODEL, revision, **position)


def new_of(engine: dict[str, Any]) -> Revision:
    return Revision.objects.get(model__name=DEFAULT_MODEL, files=NEW_FILES, engine=engine)


def test_routes_lead_to_what_was_converted_anew_and_the_old_row_stays(conversions: list[Path]) -> None:
    old = old_default()
    set_shares(actor=Actor.person("test"), name=DEFAULT_MODEL, weights={"old": 100})
    Deployment.objects.filter(pk="old").update(is_pinned=True, idle_seconds=60)
    start()
    new = new_of({})
    assert shares_of(DEFAULT_MODEL) == {new.pk: 100}
    assert (new.deployment.wanted, new.deployment.is_pinned, new.deployment.idle_seconds) == (
        "loaded",
        True,
        60,
    )
    assert Deployment.objects.get(pk="old").wanted == "unloaded"
    assert Revision.objects.get(pk="old").files == old.files == OLD_FILES
    change = Entry.objects.filter(action="route.change").latest("pk")
    assert (change.actor, "converted anew" in str(change.detail)) == ("serve", True)
    assert verify().is_intact
    assert [target.name for target in conversions] == [f"{DEFAULT_MODEL}-converter-{GGUF_CONVERTER}"]


def test_it_happens_once(conversions: list[Path]) -> None:
    old_default()
    for _ in range(3):
        start()
    assert len(conversions) == 1


def test_revisions_with_other_settings_follow(conversions: list[Path]) -> None:
    old = old_default()
    old_default("tuned", parent=old, engine={"max_num_seqs": 4})
    set_shares(actor=Actor.person("test"), name="mine", weights={"old": 30, "tuned": 70})
    other = serve("other", "stub-9")
    start()
    assert shares_of("mine") == {new_of({}).pk: 30, new_of({"max_num_seqs": 4}).pk: 70}
    assert new_of({"max_num_seqs": 4}).parent == new_of({})
    assert shares_of("other") == {other.pk: 100}


def test_a_rollout_in_progress_is_left_alone() -> None:
    old_default()
    set_shares(actor=Actor.person("test"), name=DEFAULT_MODEL, weights={"old": 100})
    make_revision(DEFAULT_MODEL, "candidate")
    begun(route=DEFAULT_MODEL, candidate="candidate")
    before = shares_of(DEFAULT_MODEL)
    start()
    assert shares_of(DEFAULT_MODEL) == before
    assert new_of({}).deployment.wanted == "unloaded"
    assert Deployment.objects.get(pk="old").wanted == "loaded"


def test_the_old_one_answers_on_where_the_package_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(*arguments: Any, **named: Any) -> Converted:
        raise PackageRefused("no network")

    monkeypatch.setattr(reconversion, "from_package", refused)
    old_default()
    set_shares(actor=Actor.person("test"), name=DEFAULT_MODEL, weights={"old": 100})
    start()
    assert shares_of(DEFAULT_MODEL) == {"old": 100}
    assert "no network" in caplog.text


@pytest.mark.parametrize(
    ("source", "facts", "expected"),
    [
        ("gguf:/models/x.gguf", {}, True),
        ("gguf:/models/x.gguf", {"converter": GGUF_CONVERTER}, False),
        ("folder:/models/x", {}, False),
        ("hub:a/b@c", {}, False),
        (SOURCE, {"converter": 1}, True),
    ],
)
def test_what_is_out_of_date_is_said_at_each_start(
    source: str, facts: dict[str, Any], expected: bool, caplog: pytest.LogCaptureFixture
) -> None:
    revision = serve("theirs", "theirs-1", source=source, facts=facts)
    assert is_outdated(revision) is expected
    start()
    assert ("theirs-1 comes from a GGUF file" in caplog.text) is expected


def test_nothing_is_converted_where_nothing_is_old(conversions: list[Path]) -> None:
    serve("theirs", "theirs-1", source="gguf:/x.gguf")
    old_default("fresh", files=NEW_FILES, facts={"converter": GGUF_CONVERTER})
    start()
    assert conversions == []
