"""Issuing and revoking keys: the row and its audit entry, in one transaction."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from console.accounts.models import Team
from console.audit.write import write
from console.keys.models import ApiKey
from console.keys.token import generate


class BadKey(Exception):
    """A key that cannot be issued as asked."""


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key and its secret, which is nowhere else: show it once."""

    key: ApiKey
    secret: str = field(repr=False)


@transaction.atomic
def issue(
    *, actor: str, name: str, team: Team, expires_at: datetime | None = None, ip: str = ""
) -> IssuedKey:
    name = name.strip()
    if not 1 <= len(name) <= 100:
        raise BadKey("A key needs a name of 1 to 100 characters.")
    if expires_at is not None and expires_at <= timezone.now():
        raise BadKey("The key would have expired already.")
    token = generate()
    key = ApiKey.objects.create(
        public_id=token.public_id,
        digest=token.digest(pepper=settings.KEY_PEPPER),
        name=name,
        team=team,
        created_by=actor[:200],
        expires_at=expires_at,
    )
    detail = {"name": name, "team": team.name, "expires_at": expires_at.isoformat() if expires_at else None}
    write(actor=actor, ip=ip, action="key.issued", target=f"key:{key.public_id}", detail=detail)
    return IssuedKey(key, token.text)


@transaction.atomic
def revoke(*, actor: str, key: ApiKey, ip: str = "") -> bool:
    """Revoke a key: its next request is refused, its streams get no further slice. False: it was before."""
    now = timezone.now()
    if not ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=now):
        return False
    key.revoked_at = now
    write(actor=actor, ip=ip, action="key.revoked", target=f"key:{key.public_id}", detail={"name": key.name})
    return True
