"""Limits that are checked before any work is done for a request: its key's budget, and its rate of requests.
The tokens of its prompt are known later, and reserved then.
"""

from __future__ import annotations

from console.accounts.caller import Caller
from console.database.async_read import read
from console.database.group_commit import ledger
from console.limits import rates
from console.limits.models import Limit
from console.limits.reserve import LimitExceeded, limit_of_key, no_room, too_fast, wait_of

LEAST_TOKENS = 2  # of prompt and output, that any request needs


async def require_room(caller: Caller) -> Limit | None:
    """The limit of the caller's key, which has room as it stands. Counts nothing; raises `LimitExceeded`."""
    key = caller.key_pk
    if key is None:
        return None
    limit = await read(lambda: limit_of_key(key))
    if limit is not None:
        _check(limit)
    return limit


async def count_request(caller: Caller) -> bool:
    """Count a request against its key's rate, whatever becomes of it: a prompt that is refused has cost work,
    too. False: it has no such rate. Raises `LimitExceeded`.
    """
    limit = await require_room(caller)
    if limit is None or limit.requests_per_minute is None:
        return False
    pk = limit.pk
    if not await ledger().admit(lambda: rates.admit(pk, tokens=0, now=rates.now_ms())):
        _check(await read(lambda: Limit.objects.get(pk=pk)))  # others were quicker
        message = "Too many requests at once; try again."
        raise LimitExceeded(message, code="rate_limit_exceeded", retry_after_seconds=1)
    return True


def _check(limit: Limit) -> None:
    free = limit.free_tokens
    if free is not None and free < LEAST_TOKENS:
        raise no_room(limit, needed=LEAST_TOKENS)
    buckets = limit.buckets(now_ms=rates.now_ms())
    if wait_of(buckets, tokens=1):
        raise too_fast(buckets, tokens=1)
