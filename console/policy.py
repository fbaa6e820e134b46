"""Who may use which route, by the route's name. A route without a line here is refused, and a test finds it.
Who may use which route, by the route's name. A route without a line here is refused, and a test finds it.
"""

from __future__ import annotations

from enum import Enum

from django.http import HttpRequest


class Who(Enum):
    """What a request needs before its view runs."""

    ANYONE = "anyone"
    KEY = "a valid API key"
    STAFF = "a signed-in member of the staff"
    ADMIN_SITE = "Django's admin decides, page by page"
    LOOPBACK_OR_STAFF = "this machine, or a signed-in member of the staff"
    KEY_OR_SESSION = "a valid API key, or a signed-in person from the console's own pages"


HTTP = {
    "gateway:chat_completions": Who.KEY,
    "gateway:completions": Who.KEY,
    "gateway:models": Who.KEY,
    "gateway:model": Who.KEY,
    "gateway:nothing_here": Who.ANYONE,  # 404 for everyone
    "health": Who.ANYONE,
    "ready": Who.ANYONE,
    "metrics": Who.LOOPBACK_OR_STAFF,
    "home": Who.ANYONE,  # a redirect to the sign-in page
}
NAMESPACES = {"admin": Who.ADMIN_SITE}
WEBSOCKET = {"/v1/responses": Who.KEY_OR_SESSION}

LOOPBACK = ("127.0.0.1", "::1")


def who_may(view_name: str) -> Who | None:
    """The policy of a route; None: nobody may."""
    namespace, _, _ = view_name.partition(":")
    return HTTP.get(view_name) or NAMESPACES.get(namespace)


def is_loopback(request: HttpRequest) -> bool:
    """Whether the request comes from this machine itself, and not through a proxy on it."""
    scope = getattr(request, "scope", {})
    return request.META.get("REMOTE_ADDR") in LOOPBACK and not scope.get("is_proxied")
