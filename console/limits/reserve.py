"""Reserving tokens before they are spent: one conditional UPDATE, so that no race can overspend.

A request reserves its prompt and a first slice of output, and extends while it runs. When the budget
holds less than a slice, what is left is granted: `ticket.allowance` is the truth, not what was asked. The
rates per minute (`rates.py`) are asked in the same transaction.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future
from datetime import datetime

from django.db import IntegrityError
from django.db.models import F, OuterRef, Q, QuerySet
from django.db.models.expressions import Exists
from django.utils import timezone

from console.accounts.caller import Caller
from console.accounts.models import User
from console.group_commit import ledger
from console.keys.models import ApiKey
from console.lease import own_lease
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
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.retry_after_seconds = retry_after_seconds
        self.buckets = buckets


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
) -> Ticket:
    """Reserve the prompt and up to `output_tokens` of output; raises LimitExceeded.

    What the request is for (model, revision, endpoint, transport) is kept for the ledger row of a crash.
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
    future = ledger().submit(lambda: _reserve(ticket, output_tokens=output_tokens))
    try:
        return await asyncio.shield(asyncio.wrap_future(future))
    except asyncio.CancelledError:
        future.add_done_callback(_give_back)  # nobody will ever use this ticket
        raise


async def extend(ticket: Ticket, *, output_tokens: int, used_tokens: int = 0) -> bool:
    """Grant up to `output_tokens` more. False: the budget is spent, or the caller was shut out meanwhile.

    `used_tokens` of prompt and output so far count against the key's tokens per minute from now on.
    """
    granted = await ledger().commit(
        lambda: _extend(ticket, output_tokens=output_tokens, used_tokens=used_tokens, now=timezone.now())
    )
    ticket.output_tokens += granted
    return granted > 0


def _reserve(ticket: Ticket, *, output_tokens: int) -> Ticket:
    if UsageRecord.objects.filter(request_id=ticket.request_id).exists():
        raise DuplicateRequest(ticket.request_id)
    limit = Limit.objects.filter(key_id=ticket.key_id).first() if ticket.key_id else None
    granted = output_tokens
    if limit is not None:
        granted, ticket.buckets = _let_in(limit, prompt_tokens=ticket.prompt_tokens, wanted=output_tokens)
    ticket.pk, ticket.limit, ticket.output_tokens = None, limit, granted  # pk: this may be a second attempt
    try:
        ticket.save(force_insert=True)
    except IntegrityError as error:  # what was taken is given back with the savepoint
        raise DuplicateRequest(ticket.request_id) from error
    return ticket


def _let_in(limit: Limit, *, prompt_tokens: int, wanted: int) -> tuple[int, tuple[Bucket, ...]]:
    """What of `wanted` the budget and the rates grant, and how the rates stand then; raises LimitExceeded."""
    if (per_minute := limit.tokens_per_minute) is not None:
        wanted = min(wanted, per_minute - prompt_tokens)
        if wanted < 1:
            raise _too_large(limit, needed=prompt_tokens + 1)
    now = rates.now_ms()
    buckets = limit.buckets(now_ms=now)
    if _wait(buckets, tokens=prompt_tokens + 1):  # most of a flood ends here, before anything is written
        raise _too_fast(buckets, tokens=prompt_tokens + wanted)
    granted = _take(limit.pk, fixed=prompt_tokens, wanted=wanted)
    if not granted:
        raise _refusal(limit.pk, needed=prompt_tokens + 1)
    tokens = prompt_tokens + granted
    is_admitted = rates.admit(limit.pk, tokens=tokens, now=now)
    limit.refresh_from_db()
    buckets = limit.buckets(now_ms=now)
    if buckets and not is_admitted:  # what was reserved is given back with the savepoint
        raise _too_fast(buckets, tokens=tokens)
    return granted, buckets


def _take(limit_pk: int, *, fixed: int, wanted: int) -> int:
    """Reserve `fixed` and as much of `wanted` as there is room for: how much of it, or 0 for nothing."""
    for _ in range(NUM_TRIES):
        amount = fixed + wanted
        has_room = Limit.objects.filter(
            Q(budget_tokens=None) | Q(budget_tokens__gte=F("used_tokens") + F("reserved_tokens") + amount),
            pk=limit_pk,
        )
        if has_room.update(reserved_tokens=F("reserved_tokens") + amount):
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
    return LimitExceeded(message, code="rate_limit_exceeded", retry_after_seconds=None, buckets=buckets)


def _wait(buckets: tuple[Bucket, ...], *, tokens: int) -> float:
    """Seconds until every rate has room for a request of so many tokens; 0: now."""
    return max((one.seconds_until_room_for(one.cost(tokens)) for one in buckets), default=0.0)


def _too_fast(buckets: tuple[Bucket, ...], *, tokens: int) -> LimitExceeded:
    wait = _wait(buckets, tokens=tokens)
    slowest = next(one for one in buckets if one.seconds_until_room_for(one.cost(tokens)) == wait)
    rate = f"{slowest.limit} {slowest.unit} a minute"
    message = f"This key is limited to {rate}; try again in {duration(wait)}."
    return LimitExceeded(message, code="rate_limit_exceeded", retry_after_seconds=wait, buckets=buckets)


def _refusal(limit_pk: int, *, needed: int) -> LimitExceeded:
    limit = Limit.objects.get(pk=limit_pk)
    if limit.budget_tokens is not None and limit.used_tokens + needed > limit.budget_tokens:
        spent = f"This key has used {limit.used_tokens} of its {limit.budget_tokens} tokens"
        message = f"{spent}; the request needs at least {needed}."
        return LimitExceeded(message, code="insufficient_quota", retry_after_seconds=None)
    message = (
        "This key's remaining tokens are reserved by its requests in flight; try again when one has ended."
    )
    return LimitExceeded(message, code="rate_limit_exceeded", retry_after_seconds=1.0)


def _extend(ticket: Ticket, *, output_tokens: int, now: datetime, used_tokens: int = 0) -> int:
    """How many more tokens are granted. The ticket's row is locked before the limit's, as in `settle.py`."""
    mine = Ticket.objects.filter(pk=ticket.pk)
    kept = _of_living_owner(mine, ticket=ticket, now=now).select_for_update().first()
    if kept is None:
        return 0
    granted, used = output_tokens, 0
    if kept.limit_id is not None:
        granted = _take(kept.limit_id, fixed=0, wanted=output_tokens)
        used = max(0, min(used_tokens, kept.reserved_tokens) - kept.counted_tokens)
        Limit.objects.filter(pk=kept.limit_id).update(
            **rates.moved(now=rates.now_ms(), used=used, held=granted - used)
        )
    mine.update(output_tokens=F("output_tokens") + granted, counted_tokens=F("counted_tokens") + used)
    return granted


def _of_living_owner(tickets: QuerySet[Ticket], *, ticket: Ticket, now: datetime) -> QuerySet[Ticket]:
    """Those whose key is neither revoked nor expired, or whose person is still active."""
    if ticket.key_id is not None:
        return tickets.filter(Exists(ApiKey.objects.valid_at(now).filter(pk=OuterRef("key_id"))))
    return tickets.filter(Exists(User.objects.filter(pk=OuterRef("user_id"), is_active=True)))


def _give_back(future: Future[Ticket]) -> None:
    """The client left while its reservation was being written: no work was done, so nothing is charged."""
    if future.exception() is None:
        ticket = future.result()
        ledger().submit(lambda: release(ticket.request_id))
