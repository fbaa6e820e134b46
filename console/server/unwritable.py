"""The console's answer while the database takes no writes: 503 with Retry-After, soon, and no traceback.

A request of a person waits a moment for SQLite's lock, not as long as a job may.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import Any

from django.db import OperationalError
from django.db.backends.signals import connection_created
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.deprecation import MiddlewareMixin
from django.views.defaults import server_error

from console.database.group_commit import PATIENCE_SECONDS

_is_request: ContextVar[bool] = ContextVar("is_request", default=False)


class WritesOrSaysSo(MiddlewareMixin):
    def process_request(self, request: HttpRequest) -> None:
        _is_request.set(True)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        return unwritable(request) if isinstance(error, OperationalError) else None

    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        _is_request.set(False)
        return response


@receiver(connection_created)
def wait_a_moment(sender: Any, connection: Any, **kwargs: Any) -> None:
    """Each request of a person has a connection of its own: it is made when the first query comes."""
    if connection.vendor == "sqlite" and _is_request.get():
        connection.connection.execute(f"PRAGMA busy_timeout = {PATIENCE_SECONDS * 1000:.0f}")


def unwritable(request: HttpRequest) -> HttpResponse:
    """Nothing was changed: what the request began has been rolled back."""
    if hasattr(request, "session"):
        request.session.modified = False  # it cannot be saved either
    headers = {"Retry-After": "1", "Cache-Control": "no-store"}
    return HttpResponse(render_to_string("503.html"), status=503, headers=headers)


def failed(request: HttpRequest) -> HttpResponse:
    """Django's handler of what no view or middleware expected."""
    if isinstance(sys.exc_info()[1], OperationalError):
        return unwritable(request)
    return server_error(request)
