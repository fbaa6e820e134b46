"""What a key may still spend, and what requests in flight have reserved of it."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from console.accounts.models import Team, User
from console.keys.models import ApiKey
from console.usage.models import Transport


class Limit(models.Model):
    """A key's budget of tokens, prompt and output together. The database itself refuses an overspend."""

    key = models.OneToOneField(ApiKey, on_delete=models.PROTECT, related_name="limit")
    budget_tokens = models.PositiveBigIntegerField()
    used_tokens = models.PositiveBigIntegerField(default=0)
    reserved_tokens = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(budget_tokens__gte=F("used_tokens") + F("reserved_tokens")),
                name="never_overspent",
            )
        ]

    def __str__(self) -> str:
        return f"{self.used_tokens} of {self.budget_tokens} tokens used"

    @property
    def free_tokens(self) -> int:
        return self.budget_tokens - self.used_tokens - self.reserved_tokens


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
    server = models.CharField(max_length=40, db_index=True)  # whose lease it stands under (`lease.py`)
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.request_id

    @property
    def allowance(self) -> int:
        """Output tokens granted so far; the engine may deliver no more than these."""
        return self.output_tokens

    @property
    def reserved_tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens
