"""The header -> the caller. The database is asked each time: a revoked key's next request is refused."""

from __future__ import annotations

import hmac
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS
from django.db.models import Q, QuerySet
from django.utils import timezone

from console.accounts.caller import Caller, NotAuthenticated
from console.accounts.models import Team
from console.database.async_read import read
from console.database.group_commit import ledger
from console.database.prepared_statements import TEXT, Select, Slot
from console.keys.models import ApiKey
from console.keys.token import Token, parse

NO_DIGEST = "0" * 64  # compared with when there is no such key, so that both cases take the same work
LAST_USED_EVERY = timedelta(minutes=1)


async def authenticate(*, authorization: str | None) -> Caller:
    """The caller whom an Authorization header names, or NotAuthenticated."""
    token = bearer(authorization)
    caller, is_stale = await read(lambda: identify(token, now=timezone.now()))
    if is_stale and caller.key_pk is not None:
        _note_use(caller.key_pk)
    return caller


def bearer(authorization: str | None) -> Token:
    """The key in the header: refused here, before any query, when it cannot be one."""
    if not authorization:
        raise NotAuthenticated("No API key given. Send it as `Authorization: Bearer ph_...`.")
    scheme, _, text = authorization.partition(" ")
    if scheme.lower() != "bearer":
        raise NotAuthenticated("The Authorization header must be `Bearer` followed by an API key.")
    token = parse(text.strip())
    if token is None:
        raise NotAuthenticated("This is not an API key of this server: check it for a typo.")
    return token


def identify(token: Token, *, now: datetime) -> tuple[Caller, bool]:
    """The caller of a key, and whether its `last_used_at` is due: one indexed query."""
    key = _key(token.public_id)
    digest = token.digest(pepper=settings.KEY_PEPPER)
    matches = hmac.compare_digest(digest, key.digest if key else NO_DIGEST)
    if key is None or not matches:
        raise NotAuthenticated("This API key is not known here.")
    # Only who holds the whole secret learns what became of the key.
    if key.revoked_at is not None:
        raise NotAuthenticated("This API key has been revoked.")
    if not key.is_valid_at(now):
        raise NotAuthenticated("This API key has expired.")
    is_stale = key.last_used_at is None or now - key.last_used_at >= LAST_USED_EVERY
    return caller_of(key), is_stale


def _key(public_id: str) -> ApiKey | None:
    row = _FIND.first(public_id=public_id)
    if row is None:
        return None
    key = ApiKey.from_db(DEFAULT_DB_ALIAS, KEY_COLUMNS, row[: len(KEY_COLUMNS)])
    key.team = Team.from_db(DEFAULT_DB_ALIAS, TEAM_COLUMNS, row[len(KEY_COLUMNS) :])
    return key


def caller_of(key: ApiKey) -> Caller:
    return Caller(
        "key",
        key.public_id,
        key.name,
        key.team_id,
        key.team.salt,
        key_pk=key.pk,
        scopes=frozenset(key.scopes),
        models=frozenset(key.allowed_models),
    )


def _note_use(key_pk: int) -> None:
    """Write down that a key is in use, at most once a minute, while the request goes on."""
    now = timezone.now()

    def work() -> None:
        due = Q(last_used_at=None) | Q(last_used_at__lte=now - LAST_USED_EVERY)
        ApiKey.objects.filter(due, pk=key_pk).update(last_used_at=now)

    ledger().submit(work)


def _keys_with_teams() -> QuerySet[ApiKey, tuple[Any, ...]]:
    keys = ApiKey.objects.filter(public_id=Slot("public_id", TEXT))
    return keys.values_list(*KEY_COLUMNS, *(f"team__{name}" for name in TEAM_COLUMNS))


KEY_COLUMNS = [one.attname for one in ApiKey._meta.concrete_fields]
TEAM_COLUMNS = [one.attname for one in Team._meta.concrete_fields]
_FIND = Select(_keys_with_teams)
