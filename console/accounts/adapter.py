"""Where the console differs from allauth's defaults: nobody signs up, and a new password is audited."""

from __future__ import annotations

from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
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
