"""`name@revision` as a model: one revision past every route, for those who may."""

from __future__ import annotations

from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.utils import timezone

from console.accounts.caller import Caller
from console.catalog.choose import Arm, choose
from console.catalog.models import Deployment
from console.keys.scopes import REVISIONS
from inference.protocol.errors import UnknownRevision
from tests.catalog_rows import make_revision, serve

pytestmark = pytest.mark.django_db(transaction=True)


def key(**limits: Any) -> Caller:
    return Caller("key", "key-id", "program", 1, "salt", key_pk=1, **limits)


PERSON = Caller("session", "user:1", "maria", 1, "salt", user_pk=1)
MADE_FOR_IT = key(scopes=frozenset({"chat", REVISIONS}))


@pytest.fixture(autouse=True)
def candidate(db: None) -> None:
    serve("stub", "stub-1")
    make_revision("stub", "stub-2")
    make_revision("other", "other-1")


def chosen(caller: Caller, model: str) -> Arm:
    return async_to_sync(choose)(caller=caller, model=model, user="")


@pytest.mark.parametrize("caller", [PERSON, MADE_FOR_IT], ids=["a person", "a key made for it"])
def test_a_revision_that_no_route_leads_to_is_addressed_by_its_id(caller: Caller) -> None:
    assert chosen(caller, "stub@stub-2") == Arm(model="stub@stub-2", revision="stub-2")
    assert chosen(caller, "stub").revision == "stub-1"


@pytest.mark.parametrize(
    "caller",
    [
        key(),
        key(scopes=frozenset({"chat"})),
        key(scopes=frozenset({REVISIONS}), models=frozenset({"other"})),
    ],
    ids=["every endpoint", "chat alone", "another model alone"],
)
def test_for_others_it_is_unknown_like_any_model(caller: Caller) -> None:
    with pytest.raises(UnknownRevision):
        chosen(caller, "stub@stub-2")


@pytest.mark.parametrize("model", ["stub@stub-9", "other@stub-2", "stub@", "@stub-2", "stub@stub-2@stub-2"])
def test_what_is_no_revision_of_that_model_is_unknown(model: str) -> None:
    with pytest.raises(UnknownRevision):
        chosen(PERSON, model)


def test_a_revision_without_files_is_unknown() -> None:
    Deployment.objects.filter(revision="stub-2").update(files_deleted_at=timezone.now())
    with pytest.raises(UnknownRevision):
        chosen(PERSON, "stub@stub-2")
