"""Issuing, changing and revoking keys: the row and its audit entry, in one transaction."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from console.accounts.models import Team
from console.accounts.streams import end_streams
from console.audit.actor import Actor
from console.audit.write import write
from console.database.after_commit import after_commit
from console.database.text import stored_text
from console.keys.models import ApiKey
from console.keys.scopes import all_scopes
from console.keys.token import generate

MAX_MODELS = 100


class BadKey(Exception):
    """A key that cannot be issued or changed as asked."""


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key and its secret, which is nowhere else: show it once."""

    key: ApiKey
    secret: str = field(repr=False)


@transaction.atomic
def issue(
    *,
    actor: Actor,
    name: str,
    team: Team,
    expires_at: datetime | None = None,
    scopes: Collection[str] = (),
    models: Collection[str] = (),
) -> IssuedKey:
    """A new key. No scope or no model named: every one, also those to come."""
    token = generate()
    key = ApiKey(
        public_id=token.public_id,
        digest=token.digest(pepper=settings.KEY_PEPPER),
        name=valid_name(name),
        team=team,
        scopes=valid_scopes(scopes),
        allowed_models=valid_models(models),
        created_by=actor.name[:200],
        expires_at=valid_expiry(expires_at),
    )
    key.save(force_insert=True)
    write(
        actor=actor,
        action="key.issued",
        target=f"key:{key.public_id}",
        detail={"team": team.name, **facts(key)},
    )
    return IssuedKey(key, token.text)


@transaction.atomic
def change(
    *,
    actor: Actor,
    key: ApiKey,
    name: str,
    expires_at: datetime | None,
    scopes: Collection[str],
    models: Collection[str],
) -> ApiKey:
    """Rename a key, or let it do more or less: counts from its next request on."""
    key = ApiKey.objects.select_for_update().get(pk=key.pk)
    if key.revoked_at is not None:
        raise BadKey("A revoked key cannot be changed.")
    before = facts(key)
    key.name, key.scopes, key.allowed_models = valid_name(name), valid_scopes(scopes), valid_models(models)
    if expires_at != key.expires_at:
        key.expires_at = valid_expiry(expires_at)
    after = facts(key)
    changed = {name for name in after if before[name] != after[name]}
    if changed:
        key.save(update_fields=["name", "scopes", "allowed_models", "expires_at"])
        detail = {
            "before": {one: before[one] for one in changed},
            "after": {one: after[one] for one in changed},
        }
        write(actor=actor, action="key.changed", target=f"key:{key.public_id}", detail=detail)
    return key


@transaction.atomic
def revoke(*, actor: Actor, key: ApiKey) -> bool:
    """Revoke a key. False: it was before.

    Its next request is refused. Its streams in this process end once that is durable; those of other
    processes get no further slice.
    """
    now = timezone.now()
    if not ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(revoked_at=now):
        return False
    key.revoked_at = now
    write(actor=actor, action="key.revoked", target=f"key:{key.public_id}", detail={"name": key.name})
    after_commit(partial(end_streams, key.public_id), name="end streams", is_shut_out=True)
    return True


def facts(key: ApiKey) -> dict[str, Any]:
    """What the audit log keeps of a key."""
    return {
        "name": key.name,
        "expires_at": key.expires_at.isoformat() if key.expires_at else None,
        "scopes": key.scopes,
        "models": key.allowed_models,
    }


def valid_name(name: str) -> str:
    name = stored_text(name.strip(), length=101)
    if not 1 <= len(name) <= 100:
        raise BadKey("A key needs a name of 1 to 100 characters.")
    return name


def valid_expiry(moment: datetime | None) -> datetime | None:
    if moment is not None and moment <= timezone.now():
        raise BadKey("The key would have expired already.")
    return moment


def valid_scopes(scopes: Collection[str]) -> list[str]:
    known = all_scopes()
    if unknown := set(scopes) - set(known):
        raise BadKey(f"There is no scope {sorted(unknown)[0]!r}; there are {', '.join(known)}.")
    return [scope for scope in known if scope in scopes]


def valid_models(names: Collection[str]) -> list[str]:
    if len(names) > MAX_MODELS or any(not 1 <= len(name) <= 200 for name in names):
        raise BadKey(f"A key is limited to at most {MAX_MODELS} models, by their public names.")
    return sorted({stored_text(name, length=200) for name in names})
