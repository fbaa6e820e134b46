"""Roles and the disabling of accounts: audited, and never the end of the last admin."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import inference.client
from console.accounts.actions import LastAdmin, UnknownUser, change_role, set_active
from console.accounts.models import User
from console.accounts.roles import Role
from console.audit.actor import Actor
from console.audit.models import Entry

MakeUser = Callable[[Role], User]


def test_a_new_role_is_written_down_with_the_old_one(make_user: MakeUser) -> None:
    make_user(Role.ADMIN)
    viewer = make_user(Role.VIEWER)
    change_role(actor=Actor.person("boss", ip="10.0.0.1"), username=viewer.username, role=Role.OPERATOR)
    viewer.refresh_from_db()
    entry = Entry.objects.get(action="user.role_changed")
    assert viewer.role == Role.OPERATOR
    assert (entry.actor, entry.target, entry.ip) == ("boss", "user:the-viewer", "10.0.0.1")
    assert entry.detail == '{"from":"viewer","to":"operator"}'


def test_the_last_admin_keeps_role_and_account(make_user: MakeUser) -> None:
    admin = make_user(Role.ADMIN)
    with pytest.raises(LastAdmin):
        change_role(actor=Actor.person("boss"), username=admin.username, role=Role.VIEWER)
    with pytest.raises(LastAdmin):
        set_active(actor=Actor.person("boss"), username=admin.username, is_active=False)
    admin.refresh_from_db()
    assert (admin.role, admin.is_active) == (Role.ADMIN, True)
    assert not Entry.objects.filter(action__in=["user.role_changed", "user.disabled"]).exists()


def test_a_disabled_admin_does_not_count_as_another_one(make_user: MakeUser) -> None:
    admin, other = make_user(Role.ADMIN), make_user(Role.OPERATOR)
    change_role(actor=Actor.person("boss"), username=other.username, role=Role.ADMIN)
    set_active(actor=Actor.person("boss"), username=other.username, is_active=False)
    with pytest.raises(LastAdmin):
        set_active(actor=Actor.person("boss"), username=admin.username, is_active=False)
    set_active(actor=Actor.person("boss"), username=other.username, is_active=True)
    set_active(actor=Actor.person("boss"), username=admin.username, is_active=False)
    entries = Entry.objects.filter(action__in=["user.enabled", "user.disabled"]).order_by("seq")
    actions = [entry.action for entry in entries]
    assert actions == ["user.disabled", "user.enabled", "user.disabled"]


def test_nobody_is_not_changed(db: None) -> None:
    with pytest.raises(UnknownUser):
        set_active(actor=Actor.person("boss"), username="nobody", is_active=False)


class Engine:
    """Knows only whose requests were aborted."""

    def __init__(self) -> None:
        self.aborted: list[str] = []

    def abort_owner(self, owner_id: str) -> None:
        self.aborted.append(owner_id)


@pytest.mark.django_db(transaction=True)
def test_the_streams_of_who_is_disabled_end(make_user: MakeUser, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    monkeypatch.setattr(inference.client, "_current", engine)
    operator = make_user(Role.OPERATOR)
    set_active(actor=Actor.person("boss"), username=operator.username, is_active=False)
    set_active(actor=Actor.person("boss"), username=operator.username, is_active=True)
    assert engine.aborted == [f"user:{operator.pk}"]
