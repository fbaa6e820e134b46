"""Who calls the management API: a person signed in to the console, or a program with a key issued for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from console.accounts.caller import NotAuthenticated
from console.accounts.roles import Role
from console.keys.authenticate import bearer, identify
from console.keys.scopes import MANAGEMENT


@dataclass(frozen=True, slots=True)
class Program:
    """A key in the place of a person: it does what an operator does, and manages no people."""

    public_id: str
    role: Role = Role.OPERATOR
    is_active: bool = True
    is_staff: bool = True
    is_admin: bool = False
    is_authenticated: bool = True
    pk: None = None

    def get_username(self) -> str:
        return f"key:{self.public_id}"


class ManagementKey(BaseAuthentication):
    """`Authorization: Bearer ph_...`. A key that may do everything on /v1 may still do nothing here."""

    def authenticate(self, request: Request) -> tuple[Any, Any] | None:
        header = request.headers.get("authorization")
        if not header:
            return None  # a session, perhaps
        try:
            caller, _ = identify(bearer(header), now=timezone.now())
        except NotAuthenticated as error:
            raise AuthenticationFailed(error.message, code=error.code) from error
        if MANAGEMENT not in caller.scopes:
            message = f"This key lacks the scope '{MANAGEMENT}'."
            raise AuthenticationFailed(message, code="missing_scope")
        return Program(caller.id), caller

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"
