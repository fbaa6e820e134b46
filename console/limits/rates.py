"""Requests and tokens per minute in the Limit's row: conditional UPDATEs, so that no race can pass too many.

Requests count when they come, before their prompts are worked on. Tokens count as they are used; what
requests in flight have reserved and not used yet is held beside the level, and weighs like it when another
wants in. A rate never cuts an answer short: what a long one takes beyond the limit delays the requests after
it.
"""

from __future__ import annotations

import time
from typing import Any

from django.db.models import BigIntegerField, F, Q, QuerySet, Value
from django.db.models.expressions import Combinable
from django.db.models.functions import Coalesce, Greatest, Least
from django.db.models.lookups import LessThanOrEqual

from console.database.prepared_statements import Slot, Update
from console.limits.bucket import LONG_MS, UNIT
from console.limits.models import Limit


def now_ms() -> int:
    return int(time.time() * 1000)


def admit(limit_pk: int, *, tokens: int, now: int, requests: int = 1) -> bool:
    """Count a request and hold its tokens if both rates have room for them. False: nothing was taken.

    `requests`: 0 for one that was counted before its tokens were known.
    """
    return bool(_ADMIT(pk=limit_pk, held=tokens, **added(now=now, requests=requests)))


def added(*, now: int, requests: int = 0, used: int = 0) -> dict[str, int]:
    """Values for the slots of `moved`, beside `held`."""
    return {"now": now, "requests": requests * UNIT, "used": used * UNIT}


def moved() -> dict[str, Any]:
    """Columns for an UPDATE: levels drained until now, then what is added to them and to what is held."""
    return {
        "requests_level": drained("requests") + Slot("requests"),
        "tokens_level": drained("tokens") + Slot("used"),
        "held_tokens": Greatest(F("held_tokens") + Slot("held"), Value(0), output_field=BigIntegerField()),
        "rated_ms": Greatest(F("rated_ms"), Slot("now"), output_field=BigIntegerField()),
    }


def drained(unit: str) -> Combinable:
    """The level of a bucket now. Clocks of servers may disagree: none turns it back."""
    whole = BigIntegerField()
    elapsed = Least(
        Greatest(Slot("now") - F("rated_ms"), Value(0), output_field=whole),
        Value(LONG_MS),
        output_field=whole,
    )
    rate = Coalesce(F(f"{unit}_per_minute"), Value(0), output_field=whole)
    return Greatest(F(f"{unit}_level") - rate * elapsed, Value(0), output_field=whole)


def _with_room() -> QuerySet[Limit]:
    requests = drained("requests") + Slot("requests")
    tokens = drained("tokens") + (F("held_tokens") + Slot("held")) * UNIT
    return Limit.objects.filter(
        Q(requests_per_minute=None) | Q(LessThanOrEqual(requests, F("requests_per_minute") * UNIT)),
        Q(tokens_per_minute=None) | Q(LessThanOrEqual(tokens, F("tokens_per_minute") * UNIT)),
        pk=Slot("pk"),
    )


_ADMIT = Update(lambda: (_with_room(), moved()))
