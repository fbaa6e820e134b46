"""Reserving tokens before they are spent: one conditional UPDATE, so that no race can overspend.

A request reserves its prompt and a first slice of output, and extends while it runs. When the budget
holds less than a slice, what is left is granted: `ticket.granted_tokens` says how much. The
rates per minute (`rates.py`) are asked in the same transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime
from typing import Any

from django.db import DEFAULT_DB_ALIAS, IntegrityError
from django.db.models import DateTimeField, F, Q, QuerySet
from django.db.models.expressions import Exists
from django.utils import timezone

from console.accounts.caller import Caller
from console.accounts.models import User
from console.database.group_commit import ledger
from console.database.prepared_statements import TEXT, Select, Slot, Update
from console.database.process_lease import own_lease
from console.keys.models import ApiKey
from console.limits import rates
from console.limits.bucket import Bucket, duration
from console.limits.models import Limit, Ticket
from console.limits.settle import release
from console.usage.models import UsageRecord

logger = logging.getLogger(__name__)
NUM_TRIES = 8  # of taking what is left while others take too; SQLite never needs a second


class LimitExceeded(Exception):
    """Answered with 429. `insufficient_quota` will not pass by waiting; `rate_limit_exceeded` may."""

    def __init__(
        self,
        message: str,
        *,
        code: str,
        retry_after_seconds: float | None,
        buckets: tuple[Bucket, ...] = (),
        limit: str = "",
        limit_value: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retry_after_seconds = retry_after_seconds
        self.buckets = buckets
        self.limit, self.limit_value = limit, limit_value  # a column of `Limit`, for the log of refusals


class DuplicateRequest(Exception):
    """A request of this id has been accepted before."""


async def reserve(
    *,
    caller: Caller,
    request_id: str,
    prompt_tokens: int,
    output_tokens: int,
    model: str = "",
    revision: str = "",
    endpoint: str = "",
    transport: str = "",
    is_counted: bool = False,
) -> Ticket:
    """Reserve the prompt and up to `output_tokens` of output; raises LimitExceeded.

    `is_counted`: the request counts against its key's rate already (`precheck.py`). What it is for (model,
    revision, endpoint, transport) is kept for the ledger row of a crash.
    """
    ticket = Ticket(
        request_id=request_id,
        owner=caller.id,
        team_id=caller.team_id,
        key_id=caller.key_pk,
        user_id=caller.user_pk,
        model=model,
        revision=revision,
        endpoint=endpoint,
        transport=transport,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        server=own_lease().server,
        created_at=timezone.now(),
    )
    return await ledger().admit(
        lambda: _reserve(ticket, output_tokens=output_tokens, is_counted=is_counted), undo=_give_back
    )


async def extend(ticket: Ticket, *, output_tokens: int, used_tokens: int = 0) -> bool:
    """Grant up to `output_tokens` more. False: the budget is spent, or the caller was shut out meanwhile.

    `used_tokens` of prompt and output so far count against the key's tokens per minute from now on.
    """
    granted = await ledger().commit(
        lambda: _extend(ticket, output_tokens=output_tokens, used_tokens=used_tokens, now=timezone.now())
    )
    ticket.output_tokens += granted
    return granted > 0


def _reserve(ticket: Ticket, *, output_tokens: int, is_counted: bool = False) -> Ticket:
    if _RECORDED(request_id=ticket.request_id):
        raise DuplicateRequest(ticket.request_id)
    limit = limit_of_key(ticket.key_id) if ticket.key_id else None
    granted = output_tokens
    if limit is not None:
        granted, ticket.buckets = _admit(
            limit, prompt_tokens=ticket.prompt_tokens, wanted=output_tokens, is_counted=is_counted
        )
    ticket.pk, ticket.limit, ticket.output_tokens = None, limit, granted  # pk: this may be a second attempt
    try:
        ticket.save(force_insert=True)
    except IntegrityError as error:  # what was taken is given back with the savepoint
        raise DuplicateRequest(ticket.request_id) from error
    return ticket


def _admit(
    limit: Limit, *, prompt_tokens: int, wanted: int, is_counted: bool
) -> tuple[int, tuple[Bucket, ...]]:
    """The tokens that budget and rates grant of `wanted`, and the rates after that; raises LimitExceeded."""
    if (per_minute := limit.tokens_per_minute) is not None:
        wanted = min(wanted, per_minute - prompt_tokens)
        if wanted < 1:
            raise _too_large(limit, needed=prompt_tokens + 1)
    now = rates.now_ms()
    buckets = limit.buckets(now_ms=now)
    asked = tuple(one for one in buckets if one.unit == "tokens" or not is_counted)
    if wait_of(asked, tokens=prompt_tokens + 1):  # most of a flood ends here, before anything is written
        raise too_fast(asked, tokens=prompt_tokens + wanted, all_buckets=buckets)
    granted = _take(limit.pk, fixed=prompt_tokens, wanted=wanted)
    if not granted:
        raise no_room(Limit.objects.get(pk=limit.pk), needed=prompt_tokens + 1)
    tokens = prompt_tokens + granted
    is_admitted = rates.admit(limit.pk, tokens=tokens, now=now, requests=0 if is_counted else 1)
    current = _limit(_OF_PK.first(pk=limit.pk)) if buckets else None
    buckets = current.buckets(now_ms=now) if current else ()
    if buckets and not is_admitted:  # what was reserved is given back with the savepoint
        asked = tuple(one for one in buckets if one.unit == "tokens" or not is_counted)
        raise too_fast(asked or buckets, tokens=tokens, all_buckets=buckets)
    return granted, buckets


def _take(limit_pk: int, *, fixed: int, wanted: int) -> int:
    """Reserve `fixed` and as much of `wanted` as there is room for: how much of it, or 0 for nothing."""
    for _ in range(NUM_TRIES):
        if _TAKE(pk=limit_pk, amount=fixed + wanted):
            return wanted
        free = Limit.objects.get(pk=limit_pk).free_tokens
        wanted = wanted if free is None else min(wanted, free - fixed)
        if wanted < 1:
            return 0
    return 0


def _too_large(limit: Limit, *, needed: int) -> LimitExceeded:
    most = limit.tokens_per_minute
    message = f"The request needs at least {needed} tokens, more than this key's {most} a minute."
    buckets = limit.buckets(now_ms=rates.now_ms())
    return LimitExceeded(
        message,
        code="rate_limit_exceeded",
        retry_after_seconds=None,
        buckets=buckets,
        limit="tokens_per_minute",
        limit_value=most,
    )


def wait_of(buckets: tuple[Bucket, ...], *, tokens: int) -> float:
    """Seconds until every rate has room for a request of so many tokens; 0: now."""
    return max((one.seconds_until_room_for(one.cost(tokens)) for one in buckets), default=0.0)


def too_fast(
    buckets: tuple[Bucket, ...], *, tokens: int, all_buckets: tuple[Bucket, ...] = ()
) -> LimitExceeded:
    """`all_buckets`: all of the key's rates, where not all were asked."""
    wait = wait_of(buckets, tokens=tokens)
    slowest = next(one for one in buckets if one.seconds_until_room_for(one.cost(tokens)) == wait)
    rate = f"{slowest.limit} {slowest.unit} a minute"
    message = f"This key is limited to {rate}; try again in {duration(wait)}."
    return LimitExceeded(
        message,
        code="rate_limit_exceeded",
        retry_after_seconds=wait,
        buckets=all_buckets or buckets,
        limit=f"{slowest.unit}_per_minute",
        limit_value=slowest.limit,
    )


def no_room(limit: Limit, *, needed: int) -> LimitExceeded:
    """The budget is spent, or reserved."""
    budget: dict[str, Any] = {"limit": "budget_tokens", "limit_value": limit.budget_tokens}
    if limit.budget_tokens is not None and limit.used_tokens + needed > limit.budget_tokens:
        spent = f"This key has used {limit.used_tokens} of its {limit.budget_tokens} tokens"
        message = f"{spent}; the request needs at least {needed}."
        return LimitExceeded(message, code="insufficient_quota", retry_after_seconds=None, **budget)
    message = (
        "This key's remaining tokens are reserved by its requests in flight; try again when one has ended."
    )
    return LimitExceeded(message, code="rate_limit_exceeded", retry_after_seconds=1.0, **budget)


def _extend(ticket: Ticket, *, output_tokens: int, now: datetime, used_tokens: int = 0) -> int:
    """The number of tokens granted. The ticket's row is locked before the limit's, as in `settle.py`."""
    if ticket.key_id is not None:
        kept = _KEPT_BY_KEY.first(ticket=ticket.pk, key=ticket.key_id, now=now)
    else:
        kept = _KEPT_BY_PERSON.first(ticket=ticket.pk, user=ticket.user_id)
    if kept is None:
        return 0
    limit_pk, prompt_tokens, reserved_output_tokens, counted_tokens = kept
    granted, used = output_tokens, 0
    if limit_pk is not None:
        granted = _take(limit_pk, fixed=0, wanted=output_tokens)
        used = max(0, min(used_tokens, prompt_tokens + reserved_output_tokens) - counted_tokens)
        _MOVE(pk=limit_pk, held=granted - used, **rates.added(now=rates.now_ms(), used=used))
    _GRANT(pk=ticket.pk, granted=granted, used=used)
    return granted


def limit_of_key(key_pk: int) -> Limit | None:
    return _limit(_OF_KEY.first(key=key_pk))


def _limit(row: tuple[Any, ...] | None) -> Limit | None:
    return None if row is None else Limit.from_db(DEFAULT_DB_ALIAS, LIMIT_COLUMNS, row)


def _with_room() -> QuerySet[Limit]:
    spoken_for = F("used_tokens") + F("reserved_tokens") + Slot("amount")
    return Limit.objects.filter(Q(budget_tokens=None) | Q(budget_tokens__gte=spoken_for), pk=Slot("pk"))


def _kept(of_living_owner: Callable[[], QuerySet[Any]]) -> Select:
    """A ticket that is still open, locked, if its key is neither revoked nor expired or its person active."""
    columns = ("limit_id", "prompt_tokens", "output_tokens", "counted_tokens")

    def tickets() -> QuerySet[Ticket, tuple[Any, ...]]:
        mine = Ticket.objects.filter(Exists(of_living_owner()), pk=Slot("ticket"))
        return mine.select_for_update().values_list(*columns)

    return Select(tickets)


def _give_back(future: Future[Ticket]) -> None:
    """Nobody waits for this ticket any more: no work was done, so nothing is charged."""
    if future.exception() is None:
        ticket = future.result()
        ledger().submit(lambda: release(ticket.request_id))


LIMIT_COLUMNS = [one.attname for one in Limit._meta.concrete_fields]
_RECORDED = Select(lambda: UsageRecord.objects.filter(request_id=Slot("request_id", TEXT)).values_list("pk"))
_OF_KEY = Select(lambda: Limit.objects.filter(key=Slot("key")).values_list(*LIMIT_COLUMNS))
_OF_PK = Select(lambda: Limit.objects.filter(pk=Slot("pk")).values_list(*LIMIT_COLUMNS))
_TAKE = Update(lambda: (_with_room(), {"reserved_tokens": F("reserved_tokens") + Slot("amount")}))
_KEPT_BY_KEY = _kept(lambda: ApiKey.objects.valid_at(Slot("now", DateTimeField())).filter(pk=Slot("key")))
_KEPT_BY_PERSON = _kept(lambda: User.objects.filter(pk=Slot("user"), is_active=True))
_MOVE = Update(lambda: (Limit.objects.filter(pk=Slot("pk")), rates.moved()))
_GRANT = Update(
    lambda: (
        Ticket.objects.filter(pk=Slot("pk")),
        {
            "output_tokens": F("output_tokens") + Slot("granted"),
            "counted_tokens": F("counted_tokens") + Slot("used"),
        },
    )
)
