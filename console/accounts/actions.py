"""People and teams: every change with its audit entry, in one transaction."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import partial

from django.contrib.auth.password_validation import validate_password
from django.db import transaction

from console.accounts.models import Membership, Team, User
from console.accounts.roles import Role
from console.accounts.streams import end_streams
from console.audit.actor import Actor
from console.audit.write import write
from console.database.after_commit import after_commit

DEFAULT_TEAM = "default"
FIRST_OPERATOR = "admin"


class UnknownUser(Exception):
    """There is no account of that name."""


class LastAdmin(Exception):
    """Without this person nobody could manage people any more."""


def generated_password() -> str:
    """24 characters that read well aloud: 120 bits."""
    alphabet = "abcdefghijkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(alphabet) for _ in range(6)) for _ in range(4))


def default_team() -> Team:
    """The team that keys and people belong to when nobody says otherwise; made when it is first needed."""
    return Team.objects.get_or_create(name=DEFAULT_TEAM)[0]


@transaction.atomic
def ensure_operator(*, actor: Actor) -> str | None:
    """At the first start: make the account `admin` and return its password, once. Later: nothing."""
    if User.objects.exists():
        return None
    password = generated_password()
    create_user(actor=actor, username=FIRST_OPERATOR, password=password, role=Role.ADMIN)
    return password


@transaction.atomic
def create_user(*, actor: Actor, username: str, password: str, role: Role, team: Team | None = None) -> User:
    team = team or default_team()
    user = User.objects.create_user(username, password=password, role=role)
    Membership.objects.create(user=user, team=team)
    detail = {"role": role.value, "team": team.name}
    write(actor=actor, action="user.created", target=f"user:{username}", detail=detail)
    return user


@transaction.atomic
def reset_password(*, actor: Actor, username: str, password: str | None = None) -> str:
    """Set a password, generated unless given, and return it. Django ends the person's sessions by itself."""
    user = User.objects.filter(username=username).first()
    if user is None:
        raise UnknownUser(f"There is no account {username!r}.")
    if password is None:
        password = generated_password()
    validate_password(password, user)
    user.set_password(password)
    user.save(update_fields=["password"])
    write(actor=actor, action="user.password_reset", target=f"user:{username}")
    return password


@transaction.atomic
def save_user(*, actor: Actor, user: User, changed: Sequence[str]) -> User:
    """Save what an admin changed about a person; a new one joins the default team."""
    is_new = user.pk is None
    if not is_new and not changed:
        return user
    user.save()
    if is_new:
        Membership.objects.create(user=user, team=default_team())
    detail = {"changed": sorted(changed), "role": user.role, "is_active": user.is_active}
    action = "user.created" if is_new else "user.changed"
    write(actor=actor, action=action, target=f"user:{user.get_username()}", detail=detail)
    return user


@transaction.atomic
def save_team(*, actor: Actor, team: Team) -> Team:
    is_new = team.pk is None
    if not is_new and Team.objects.filter(pk=team.pk, name=team.name).exists():
        return team
    team.save()
    action = "team.created" if is_new else "team.changed"
    write(actor=actor, action=action, target=f"team:{team.pk}", detail={"name": team.name})
    return team


@transaction.atomic
def change_role(*, actor: Actor, username: str, role: Role) -> User:
    user = _locked(username)
    if user.role == role:
        return user
    if role is not Role.ADMIN:
        _refuse_last_admin(user)
    detail = {"from": user.role, "to": role.value}
    user.role = role
    user.save(update_fields=["role"])
    write(actor=actor, action="user.role_changed", target=f"user:{username}", detail=detail)
    return user


@transaction.atomic
def set_active(*, actor: Actor, username: str, is_active: bool) -> User:
    """Disable or enable an account. A disabled one's streams end, and its sessions at their next request."""
    user = _locked(username)
    if user.is_active == is_active:
        return user
    if not is_active:
        _refuse_last_admin(user)
    user.is_active = is_active
    user.save(update_fields=["is_active"])
    action = "user.enabled" if is_active else "user.disabled"
    write(actor=actor, action=action, target=f"user:{username}")
    if not is_active:
        after_commit(partial(end_streams, f"user:{user.pk}"), name="end streams", is_shut_out=True)
    return user


def _locked(username: str) -> User:
    user = User.objects.select_for_update().filter(username=username).first()
    if user is None:
        raise UnknownUser(f"There is no account {username!r}.")
    return user


def _refuse_last_admin(user: User) -> None:
    """Locks every admin's row, so that two admins cannot remove each other at the same time."""
    admins = User.objects.select_for_update().filter(is_active=True, role=Role.ADMIN)
    if {one.pk for one in admins} == {user.pk}:
        raise LastAdmin
