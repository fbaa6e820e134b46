"""Django's test client, taught that a session's cookie is not its name in the database."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.test.client import Client, ClientMixin

from console.accounts.sessions import SessionStore


def hold_secrets() -> None:
    """Every client from now on sends the secret after `force_login`, and finds `session` by it."""
    set_cookies = ClientMixin._set_login_cookies  # type: ignore[attr-defined]

    def set_secret(self: Client, request: HttpRequest) -> None:
        set_cookies(self, request)
        store: Any = request.session
        self.cookies[settings.SESSION_COOKIE_NAME].set(
            settings.SESSION_COOKIE_NAME, store.secret, store.secret
        )

    def session(self: Client) -> SessionStore:
        cookie = self.cookies.get(settings.SESSION_COOKIE_NAME)
        return SessionStore.of_cookie(cookie.value if cookie else None)

    ClientMixin._set_login_cookies = set_secret  # type: ignore[attr-defined]
    ClientMixin.session = property(session)  # type: ignore[assignment]
