"""A prepared statement does what its queryset does, with values that come later, and is written once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import DateTimeField, F
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from console.accounts.actions import default_team
from console.accounts.models import Team
from console.audit.actor import Actor
from console.database.prepared_statements import TEXT, Delete, Select, Slot, Update
from console.keys.actions import issue
from console.keys.models import ApiKey
from console.limits.models import Limit

pytestmark = pytest.mark.django_db


@pytest.fixture
def limits() -> list[Limit]:
    team = default_team()
    keys = [issue(actor=Actor.person("test"), name=name, team=team) for name in "ab"]
    return [
        Limit.objects.create(key=ApiKey.objects.get(public_id=key.secret.split("_")[1]), used_tokens=5)
        for key in keys
    ]


def test_an_update_changes_the_rows_that_its_values_name(limits: list[Limit]) -> None:
    add = Update(
        lambda: (
            Limit.objects.filter(pk=Slot("pk"), used_tokens__lte=F("reserved_tokens") + Slot("most")),
            {"used_tokens": F("used_tokens") + Slot("more")},
        )
    )
    first, second = limits
    assert add(pk=first.pk, most=5, more=2) == 1
    assert add(pk=first.pk, most=6, more=100) == 0  # it has 7 now
    assert add(pk=second.pk, most=6, more=-1) == 1
    assert list(Limit.objects.order_by("pk").values_list("used_tokens", flat=True)) == [7, 4]


def test_rows_come_back_as_python_has_them(limits: list[Limit]) -> None:
    find = Select(
        lambda: (
            ApiKey.objects.filter(name=Slot("name", TEXT), created_at__gt=Slot("since", DateTimeField()))
            .order_by("pk")
            .values_list("pk", "created_at", "scopes", "team__name")
        )
    )
    hour_ago = timezone.now() - timedelta(hours=1)
    key = ApiKey.objects.select_related("team").get(name="b")
    assert find(name="b", since=hour_ago) == [(key.pk, key.created_at, key.scopes, key.team.name)]
    assert find.first(name="b", since=hour_ago) == (key.pk, key.created_at, key.scopes, key.team.name)
    assert find.first(name="nobody", since=hour_ago) is None
    assert find(name="b", since=timezone.now() + timedelta(hours=1)) == []


def test_a_delete_says_whether_the_row_was_there(limits: list[Limit]) -> None:
    forget = Delete(lambda: Limit.objects.filter(pk=Slot("pk")))
    assert [forget(pk=limits[0].pk), forget(pk=limits[0].pk)] == [1, 0]
    assert Limit.objects.count() == 1


def test_values_are_bound_and_never_part_of_the_text() -> None:
    team = default_team()
    find = Select(lambda: Team.objects.filter(name=Slot("name", TEXT)).values_list("pk"))
    assert find(name=team.name) == [(team.pk,)]
    for hostile in ("' OR 1=1 --", "%s", '"; DROP TABLE x'):
        assert find(name=hostile) == []


def test_it_is_written_once() -> None:
    made: list[Any] = []

    def make() -> Any:
        made.append(1)
        return Team.objects.filter(pk=Slot("pk")).values_list("name")

    find = Select(make)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        for pk in range(5):
            find(pk=pk)
    assert len(made) == 1 and len(queries) == 5


def test_a_forgotten_value_is_an_error() -> None:
    with pytest.raises(KeyError, match="pk"):
        Select(lambda: Team.objects.filter(pk=Slot("pk")).values_list("name"))(name="x")
