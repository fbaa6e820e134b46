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
from console.audit.signals import address
from console.audit.write import write


class Adapter(DefaultAccountAdapter):  # type: ignore[misc]  # allauth ships no types
    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False

    @transaction.atomic
    def set_password(self, user: User, password: Any) -> None:
        super().set_password(user, password)
        name = user.get_username()
        write(actor=name, ip=address(self.request), action="user.password_changed", target=f"user:{name}")


class SessionsAdapter(DefaultUserSessionsAdapter):  # type: ignore[misc]  # allauth ships no types
    @transaction.atomic
    def end_sessions(self, sessions: list[UserSession]) -> None:
        """A person ends their other sessions: one row, where there were any."""
        super().end_sessions(sessions)
        if sessions:
            name, detail = sessions[0].user.get_username(), {"number": len(sessions)}
            ip = address(context.request)
            write(actor=name, ip=ip, action="sessions.ended", target=f"user:{name}", detail=detail)
