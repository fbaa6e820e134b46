"""A GET on an address that only takes POST: who reloaded or typed it is led to the page around it."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponseBase, HttpResponseRedirect
from django.urls import Resolver404, resolve


def instead(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """The nearest page above; other answers than 405 to a GET pass."""
    if response.status_code != 405 or request.method != "GET":
        return response
    parts = [part for part in request.path.split("/") if part]
    while parts:
        parts.pop()
        above = "/" + "".join(f"{part}/" for part in parts)
        try:
            resolve(above)
        except Resolver404:
            continue
        return HttpResponseRedirect(above)
    return response
