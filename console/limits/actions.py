"""Setting a key's budget: the row and its audit entry, in one transaction."""

from __future__ import annotations

from django.db import transaction
from django.db.models import F

from console.audit.write import write
from console.keys.models import ApiKey
from console.limits.models import Limit


class BudgetTooSmall(Exception):
    """The budget is not positive, or below what has been used and reserved already."""


@transaction.atomic
def set_budget(*, actor: str, key: ApiKey, budget_tokens: int, ip: str = "") -> Limit:
    """Give a key a budget of tokens in all, or change it. It counts for requests that begin from now on."""
    if budget_tokens < 1:
        raise BudgetTooSmall("A budget is at least one token; to end a key, revoke it.")
    limit, is_new = Limit.objects.get_or_create(key=key, defaults={"budget_tokens": budget_tokens})
    before = None if is_new else limit.budget_tokens
    holds_all = Limit.objects.filter(pk=limit.pk).annotate(taken=F("used_tokens") + F("reserved_tokens"))
    if not holds_all.filter(taken__lte=budget_tokens).update(budget_tokens=budget_tokens):
        limit.refresh_from_db()
        taken = limit.used_tokens + limit.reserved_tokens
        raise BudgetTooSmall(f"{taken} tokens are used or reserved already; a budget cannot be less.")
    limit.refresh_from_db()
    detail = {"before": before, "after": budget_tokens}
    write(actor=actor, ip=ip, action="limit.set", target=f"key:{key.public_id}", detail=detail)
    return limit
