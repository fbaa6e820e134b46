"""Where the console differs from allauth's defaults: nobody signs up, and what people do is audited."""

from __future__ import annotations

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.core import context
from allauth.usersessions.adapter import DefaultUserSessionsAdapter
from allauth.usersessions.models import UserSession
from django.db import transaction
from django.http import HttpRequest

from console.accounts.models import User
from console.audit.actor import actor_of
from console.audit.write import write


class Adapter(DefaultAccountAdapter):  # type: ignore[misc]  # allauth ships no types
    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False

    @transaction.atomic
    def set_password(self, user: User, password: Any) -> None:
        super().set_password(user, password)
        name = user.get_username()
        write(actor=actor_of(self.request, user), action="user.password_changed", target=f"user:{name}")


class SessionsAdapter(DefaultUserSessionsAdapter):  # type: ignore[misc]  # allauth ships no types
    @transaction.atomic
    def end_sessions(self, sessions: list[UserSession]) -> None:
        """A person ends their other sessions: one row, where there were any."""
        super().end_sessions(sessions)
        if sessions:
            user, detail = sessions[0].user, {"number": len(sessions)}
            write(
                actor=actor_of(context.request, user),
                action="sessions.ended",
                target=f"user:{user.get_username()}",
                detail=detail,
            )
