"""Budgets and rates of keys, and the reservations of requests in flight."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from console.accounts.models import Team, User
from console.keys.models import ApiKey
from console.limits.bucket import LONG_MS, UNIT, Bucket
from console.usage.models import Transport


class Limit(models.Model):
    """Budget and rates of a key: tokens in all, requests and tokens a minute, prompt and output together;
    null is unlimited. The database itself refuses an overspend."""

    key = models.OneToOneField(ApiKey, on_delete=models.PROTECT, related_name="limit")
    budget_tokens = models.PositiveBigIntegerField(null=True)
    used_tokens = models.PositiveBigIntegerField(default=0)
    reserved_tokens = models.PositiveBigIntegerField(default=0)
    requests_per_minute = models.PositiveBigIntegerField(null=True)
    tokens_per_minute = models.PositiveBigIntegerField(null=True)
    requests_level = models.PositiveBigIntegerField(default=0)  # as of `rated_ms`, in `bucket.UNIT`s
    tokens_level = models.PositiveBigIntegerField(default=0)
    held_tokens = models.PositiveBigIntegerField(default=0)  # reserved, and not in the level yet
    rated_ms = models.PositiveBigIntegerField(default=0)  # Unix time

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(budget_tokens=None)
                | Q(budget_tokens__gte=F("used_tokens") + F("reserved_tokens")),
                name="never_overspent",
            )
        ]

    def __str__(self) -> str:
        return f"limits of {self.key}"

    @property
    def free_tokens(self) -> int | None:
        """Tokens left of the budget; None: there is no budget."""
        if self.budget_tokens is None:
            return None
        return self.budget_tokens - self.used_tokens - self.reserved_tokens

    @property
    def used_percent(self) -> float:
        return round(100 * self.used_tokens / self.budget_tokens, 1) if self.budget_tokens else 0.0

    @property
    def reserved_percent(self) -> float:
        return round(100 * self.reserved_tokens / self.budget_tokens, 1) if self.budget_tokens else 0.0

    @property
    def is_empty(self) -> bool:
        return self.budget_tokens is self.requests_per_minute is self.tokens_per_minute is None

    def buckets(self, *, now_ms: int) -> tuple[Bucket, ...]:
        """The rates that are limited, as they stand now."""
        elapsed = min(max(0, now_ms - self.rated_ms), LONG_MS)
        found = []
        if (limit := self.requests_per_minute) is not None:
            found.append(Bucket("requests", limit, max(0, self.requests_level - limit * elapsed)))
        if (limit := self.tokens_per_minute) is not None:
            level = max(0, self.tokens_level - limit * elapsed)
            found.append(Bucket("tokens", limit, level + self.held_tokens * UNIT))
        return tuple(found)


class Ticket(models.Model):
    """A request in flight and its reservation. It is deleted by the settlement, in the same transaction that
    writes the usage row; one that outlives its server is the record of a crash (`sweep.py`)."""

    request_id = models.CharField(max_length=100, unique=True)
    owner = models.CharField(max_length=100)  # Caller.id
    team = models.ForeignKey(Team, on_delete=models.PROTECT)
    key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, null=True)
    user = models.ForeignKey(User, on_delete=models.SET_NULL, null=True)
    limit = models.ForeignKey(Limit, on_delete=models.PROTECT, null=True)  # none: nothing bounds this caller
    model = models.CharField(max_length=200, blank=True)
    revision = models.CharField(max_length=200, blank=True)
    endpoint = models.CharField(max_length=100, blank=True)
    transport = models.CharField(max_length=20, choices=Transport.choices, blank=True)
    prompt_tokens = models.PositiveBigIntegerField()
    output_tokens = models.PositiveBigIntegerField()  # granted so far
    counted_tokens = models.PositiveBigIntegerField(default=0)  # of both, in the limit's level already
    server = models.CharField(max_length=40, db_index=True)  # whose lease it stands under (`lease.py`)
    created_at = models.DateTimeField()

    buckets: tuple[Bucket, ...] = ()  # the key's rates just after this request was let in

    def __str__(self) -> str:
        return self.request_id

    @property
    def granted_tokens(self) -> int:
        """Output tokens granted so far; the engine may deliver no more than these."""
        return self.output_tokens

    @property
    def reserved_tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens
