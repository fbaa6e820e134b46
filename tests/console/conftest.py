"""Real rows that the console's tests start from: a team, people of each role, keys."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from console.accounts.actions import create_user, default_team
from console.accounts.models import Team, User
from console.accounts.roles import Role
from console.audit.actor import Actor
from console.keys.actions import IssuedKey, issue


@pytest.fixture
def team(db: None) -> Team:
    return default_team()


@pytest.fixture
def make_user(team: Team) -> Callable[[Role], User]:
    def make(role: Role) -> User:
        return create_user(
            actor=Actor.person("test"),
            username=f"the-{role.value}",
            password="correct horse battery",
            role=role,
        )

    return make


@pytest.fixture
def issued(team: Team) -> IssuedKey:
    return issue(actor=Actor.person("test"), name="program", team=team)
