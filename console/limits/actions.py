"""Setting a key's limits: the row and its audit entry, in one transaction."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from django.db import transaction

from console.accounts.models import Team
from console.audit.actor import Actor
from console.audit.write import write
from console.keys.actions import IssuedKey, issue
from console.keys.models import ApiKey
from console.limits.models import Limit

MOST = 10**9  # a minute, or in all: far above any engine, and well within the database's numbers
MOST_BUDGET = 10**15


class BadLimit(Exception):
    """A limit that is not positive, or beyond all reason."""


class BudgetTooSmall(BadLimit):
    """The budget is not positive, or below what has been used and reserved already."""


@dataclass(frozen=True, slots=True)
class Limits:
    """None: not limited."""

    budget_tokens: int | None = None  # prompt and output, in all
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        if self.budget_tokens is not None and not 1 <= self.budget_tokens <= MOST_BUDGET:
            raise BudgetTooSmall("A budget is at least one token; to end a key, revoke it.")
        for rate in (self.requests_per_minute, self.tokens_per_minute):
            if rate is not None and not 1 <= rate <= MOST:
                raise BadLimit(f"A rate is 1 to {MOST} a minute; to end a key, revoke it.")


def limits_of(limit: Limit | None) -> Limits:
    if limit is None:
        return Limits()
    return Limits(limit.budget_tokens, limit.requests_per_minute, limit.tokens_per_minute)


@transaction.atomic
def set_limits(*, actor: Actor, key: ApiKey, limits: Limits) -> Limit:
    """Give a key limits, change them or lift them. They count for requests that begin from now on."""
    Limit.objects.get_or_create(key=key)
    limit = Limit.objects.select_for_update().get(key=key)
    before = limits_of(limit)
    for name, value in asdict(limits).items():
        setattr(limit, name, value)
    for name in began(before, limits):
        setattr(limit, name, 0)
    taken = limit.used_tokens + limit.reserved_tokens
    if limits.budget_tokens is not None and taken > limits.budget_tokens:
        raise BudgetTooSmall(f"{taken} tokens are used or reserved already; a budget cannot be less.")
    if limits != before:
        limit.save()
        detail: dict[str, Any] = {"before": asdict(before), "after": asdict(limits)}
        write(actor=actor, action="limit.set", target=f"key:{key.public_id}", detail=detail)
    return limit


def began(before: Limits, after: Limits) -> list[str]:
    """Counters that start anew, for what was used while nothing limited it does not count."""
    counters = {
        "budget_tokens": "used_tokens",
        "requests_per_minute": "requests_level",
        "tokens_per_minute": "tokens_level",
    }
    return [
        counter
        for name, counter in counters.items()
        if getattr(before, name) is None and getattr(after, name) is not None
    ]


@transaction.atomic
def set_budget(*, actor: Actor, key: ApiKey, budget_tokens: int) -> Limit:
    """Give a key a budget of tokens in all, or change it; its rates stay."""
    before = limits_of(Limit.objects.filter(key=key).first())
    return set_limits(actor=actor, key=key, limits=replace(before, budget_tokens=budget_tokens))


@transaction.atomic
def issue_with_limits(
    *,
    actor: Actor,
    name: str,
    team: Team,
    limits: Limits,
    expires_at: datetime | None = None,
    scopes: Collection[str] = (),
    models: Collection[str] = (),
) -> IssuedKey:
    """A new key that was never without its limits."""
    issued = issue(actor=actor, name=name, team=team, expires_at=expires_at, scopes=scopes, models=models)
    if limits != Limits():
        set_limits(actor=actor, key=issued.key, limits=limits)
    return issued
