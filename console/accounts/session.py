"""A signed-in person of the console -> the caller for whom the playground's requests run."""

from __future__ import annotations

from typing import Any

from console.accounts.caller import Caller, Forbidden, NotAuthenticated
from console.accounts.models import Membership, User
from console.accounts.roles import Role
from console.database.async_read import read


async def session_caller(user: Any) -> Caller:
    """The caller of a session, read anew: a person who was deactivated meanwhile is refused."""
    pk = user.pk
    if pk is None:
        raise NotAuthenticated("Sign in to the console first.", code="not_signed_in")
    return await read(lambda: identify(pk))


def identify(user_pk: int) -> Caller:
    person = User.objects.filter(pk=user_pk, is_active=True).first()
    if person is None:
        raise NotAuthenticated("Sign in to the console first.", code="not_signed_in")
    if not person.is_admin and person.role != Role.OPERATOR:
        raise Forbidden("A viewer sees the console but spends no tokens.")
    membership = Membership.objects.select_related("team").filter(user=person).order_by("pk").first()
    if membership is None:
        raise Forbidden("This account belongs to no team: an admin can add it to one.")
    team = membership.team
    return Caller(
        "session", f"user:{person.pk}", person.get_username(), team.pk, team.salt, user_pk=person.pk
    )
