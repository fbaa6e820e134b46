"""What the data plane refuses, for the audit log: counted by key and address, never a row each."""

from __future__ import annotations

from typing import Any

from console.audit.refusals import REFUSALS
from console.gateway.errors import ApiError
from console.keys.token import parse

AUDITED = (401, 403, 429)
UNKNOWN = "key:unknown"


def write_down(error: ApiError, *, source: str, scope: Any) -> None:
    """Count a refusal that says something about its caller; the others are the request's own fault."""
    if error.status in AUDITED:
        client = scope.get("client") or ("", 0)
        REFUSALS.note(source=source, ip=client[0], reason=f"{error.status} {error.code}")


def source_of(authorization: str | None) -> str:
    """Who an Authorization header claims to be: the public part of a well-formed key, whoever sent it."""
    token = parse((authorization or "").partition(" ")[2].strip())
    return UNKNOWN if token is None else f"key:{token.public_id}"
