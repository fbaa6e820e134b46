"""Sessions whose cookie opens them and whose rows do not: the database keeps a keyed hash of the cookie.

The hash is the session's name, and Django's `session_key`: rows, the list of one's sessions and what ends
them go by it. Who reads the database, or a backup, learns names, and no cookie makes one of a name.
"""

from __future__ import annotations

from typing import Any

from channels.sessions import CookieMiddleware
from django.conf import settings
from django.contrib.sessions.backends.base import VALID_KEY_CHARS
from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.contrib.sessions.middleware import SessionMiddleware
from django.http import HttpRequest, HttpResponse
from django.utils.crypto import get_random_string, salted_hmac

NUM_CHARACTERS = 32
NAME_CHARACTERS = 40  # what the column holds: 160 bits


def name_of(secret: str) -> str:
    """The name of the session that a cookie's value opens."""
    return salted_hmac("pilothouse.session", secret, algorithm="sha256").hexdigest()[:NAME_CHARACTERS]


class SessionStore(DatabaseStore):
    """`SessionStore(name)` for who knows it from the database; `of_cookie` for who shows its secret."""

    secret: str | None = None  # the cookie's value, where a cookie came or is to be sent

    @classmethod
    def of_cookie(cls, value: str | None) -> SessionStore:
        store = cls(name_of(value) if value else None)
        store.secret = value
        return store

    def _get_new_session_key(self) -> str:
        self.secret = get_random_string(NUM_CHARACTERS, VALID_KEY_CHARS)
        return name_of(self.secret)

    async def _aget_new_session_key(self) -> str:
        return self._get_new_session_key()


class Sessions(SessionMiddleware):
    """Django's, for cookies that hold a secret and not the session's name."""

    def process_request(self, request: HttpRequest) -> None:
        request.session = SessionStore.of_cookie(request.COOKIES.get(settings.SESSION_COOKIE_NAME))

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        response = super().process_response(request, response)
        sent = response.cookies.get(settings.SESSION_COOKIE_NAME)
        if sent is not None and sent.value:  # an empty one takes the cookie away
            assert isinstance(request.session, SessionStore)
            secret = request.session.secret
            assert secret is not None, "a session of this request was opened by a cookie, or made here"
            sent.set(settings.SESSION_COOKIE_NAME, secret, secret)
        return response


class SocketSessions:
    """The session of a WebSocket's handshake, read and never written."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        cookie = scope["cookies"].get(settings.SESSION_COOKIE_NAME)
        await self._app({**scope, "session": SessionStore.of_cookie(cookie)}, receive, send)


def with_sessions(app: Any) -> Any:
    """The application, told by the scope's cookies whose session it is."""
    return CookieMiddleware(SocketSessions(app))
