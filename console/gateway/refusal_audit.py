"""Refused requests of the API: counted by key and address for the audit log, and listed for operators."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.utils import timezone

from console.audit.refusals import REFUSALS
from console.gateway.errors import ApiError
from console.keys.token import parse
from console.limits.reserve import LimitExceeded
from console.usage.refused_requests import REFUSED_LOG, Refusal

AUDITED = (401, 403, 429)
UNKNOWN = "key:unknown"


def count_refusal(error: ApiError, *, source: str, scope: Any) -> None:
    """Count a refusal that says something about its caller; the others are the request's own fault."""
    if error.status in AUDITED:
        client = scope.get("client") or ("", 0)
        REFUSALS.note(source=source, ip=client[0], reason=f"{error.status} {error.code}")


def list_refusal(
    error: ApiError, cause: BaseException, *, owner: str, scope: Any, endpoint: str, transport: str
) -> None:
    """Note it for the list of refused requests: who, which limit, and when another try may pass."""
    client = scope.get("client") or ("", 0)
    now = timezone.now()
    exceeded = cause if isinstance(cause, LimitExceeded) else None
    milliseconds = error.headers.get("retry-after-ms")
    REFUSED_LOG.note(
        Refusal(
            owner=owner,
            status=error.status,
            code=error.code,
            at=now,
            request_id=str(scope.get("request_id", ""))[:128],
            endpoint=endpoint,
            transport=transport,
            param=(error.param or "")[:100],
            ip=str(client[0])[:64],
            limit=exceeded.limit if exceeded else "",
            limit_value=exceeded.limit_value if exceeded else None,
            frees_at=now + timedelta(milliseconds=int(milliseconds)) if milliseconds else None,
        )
    )


def claimed_owner(authorization: str | None) -> str:
    """The public part of a well-formed key, whoever sent it; kept only where such a key exists."""
    token = parse((authorization or "").partition(" ")[2].strip())
    return "" if token is None else token.public_id


def source_of(authorization: str | None) -> str:
    """The same as the audit log names it."""
    owner = claimed_owner(authorization)
    return f"key:{owner}" if owner else UNKNOWN
