"""Who acts: what every action is told for its audit entry."""

from __future__ import annotations

from typing import TypedDict

from rest_framework.request import Request

from console.audit.signals import address


class By(TypedDict):
    actor: str
    ip: str


def by(request: Request) -> By:
    return {"actor": request.user.get_username(), "ip": address(request._request)}
