"""Who acts: what every action is told for its audit entry."""

from __future__ import annotations

from typing import TypedDict

from django.http import HttpRequest

from console.audit.signals import address


class By(TypedDict):
    actor: str
    ip: str


def by(request: HttpRequest) -> By:
    """`actions.change(**by(request), ...)`."""
    return {"actor": request.user.get_username(), "ip": address(request)}
