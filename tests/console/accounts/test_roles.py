"""What each role may do, in the console and in the playground."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import AnonymousUser

from console.accounts.caller import Caller, Forbidden, NotAuthenticated
from console.accounts.models import Membership, User
from console.accounts.roles import Role, allows
from console.accounts.session import session_caller

MakeUser = Callable[[Role], User]


def test_a_viewer_only_looks() -> None:
    assert allows(Role.VIEWER, "keys.view_apikey")
    for permission in (
        "keys.add_apikey",
        "keys.change_apikey",
        "accounts.change_user",
        "catalog.delete_revision",
    ):
        assert not allows(Role.VIEWER, permission)


def test_an_operator_handles_keys_but_not_people() -> None:
    assert allows(Role.OPERATOR, "keys.add_apikey") and allows(Role.OPERATOR, "limits.change_limit")
    for permission in (
        "accounts.add_user",
        "accounts.change_team",
        "usage.change_usagerecord",
        "audit.add_entry",
    ):
        assert not allows(Role.OPERATOR, permission)


def test_an_admin_handles_people() -> None:
    assert allows(Role.ADMIN, "accounts.add_user")


@pytest.mark.parametrize("role", list(Role))
def test_a_user_has_the_permissions_of_their_role(role: Role, make_user: MakeUser) -> None:
    user = make_user(role)
    for permission in ("keys.view_apikey", "keys.add_apikey", "accounts.add_user"):
        assert user.has_perm(permission) is allows(role, permission)
    user.is_active = False
    assert not user.has_perm("keys.view_apikey")
    assert not user.has_module_perms("keys")


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("role", [Role.OPERATOR, Role.ADMIN])
async def test_a_person_becomes_a_caller_of_their_team(role: Role, make_user: MakeUser) -> None:
    user = await sync_to_async(make_user)(role)
    membership = await Membership.objects.select_related("team").aget()
    caller = await session_caller(user)
    assert caller == Caller(
        "session", f"user:{user.pk}", user.username, membership.team_id, membership.team.salt, user_pk=user.pk
    )


@pytest.mark.django_db(transaction=True)
async def test_a_viewer_spends_no_tokens(make_user: MakeUser) -> None:
    with pytest.raises(Forbidden):
        await session_caller(await sync_to_async(make_user)(Role.VIEWER))


@pytest.mark.django_db(transaction=True)
async def test_a_person_without_team_spends_no_tokens(make_user: MakeUser) -> None:
    user = await sync_to_async(make_user)(Role.ADMIN)
    await Membership.objects.all().adelete()
    with pytest.raises(Forbidden):
        await session_caller(user)


@pytest.mark.django_db(transaction=True)
async def test_who_is_not_or_no_longer_somebody_is_refused(make_user: MakeUser) -> None:
    with pytest.raises(NotAuthenticated):
        await session_caller(AnonymousUser())
    user = await sync_to_async(make_user)(Role.ADMIN)
    await User.objects.aupdate(is_active=False)
    with pytest.raises(NotAuthenticated):  # though the object in hand still says active
        await session_caller(user)


def test_a_caller_is_a_key_or_a_person() -> None:
    with pytest.raises(ValueError, match="either"):
        Caller("key", "x", "x", 1, "s")
