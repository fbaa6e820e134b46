"""The ledger: one row for each accepted request, written once, when it ends."""

from __future__ import annotations

from django.db import models

from console.accounts.models import Team
from console.keys.models import ApiKey


class Transport(models.TextChoices):
    REST = "rest"
    SSE = "sse"
    WEBSOCKET = "websocket"


class Outcome(models.TextChoices):
    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"


class UsageRecord(models.Model):
    """A ledger row: the usage of a request and its end."""

    request_id = models.CharField(max_length=100, unique=True)
    owner = models.CharField(max_length=100)  # the key's public id, or "user:<pk>"
    key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, null=True, related_name="usage")
    team = models.ForeignKey(Team, on_delete=models.PROTECT, related_name="usage")
    model = models.CharField(max_length=200)
    revision = models.CharField(max_length=200)
    endpoint = models.CharField(max_length=100)
    transport = models.CharField(max_length=20, choices=Transport.choices, blank=True)
    outcome = models.CharField(max_length=20, choices=Outcome.choices)
    finish_reason = models.CharField(max_length=40, blank=True)
    error_code = models.CharField(max_length=60, blank=True)
    prompt_tokens = models.PositiveBigIntegerField()
    cached_tokens = models.PositiveBigIntegerField(default=0)  # of the prompt's
    completion_tokens = models.PositiveBigIntegerField()
    num_choices = models.PositiveIntegerField(default=1)
    queue_seconds = models.FloatField(default=0.0)
    ttft_seconds = models.FloatField(null=True)  # none: no token came out
    total_seconds = models.FloatField(default=0.0)  # from arrival to the writing of this row
    # Where they went: [{"name", "start", "end", ...}] in seconds since arrival, one after the other without
    # gaps, by the choice that ended last; "answer", of no length, is when the answer began to leave.
    spans = models.JSONField(default=list)
    end_user = models.CharField(max_length=200, blank=True)  # what the client named in `user`
    created_at = models.DateTimeField(db_index=True)  # when the request arrived
    settled_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = [
            models.Index(fields=["owner", "created_at"]),
            models.Index(fields=["team", "created_at"]),
            models.Index(fields=["model", "revision", "created_at"]),  # an arm of a route, since a moment
        ]

    person = ""  # the name of the person, set by queries that look it up

    def __str__(self) -> str:
        return self.request_id

    @property
    def known_seconds(self) -> float | None:
        """None: its server died, and with it the clock."""
        return None if self.error_code == "server_died" else self.total_seconds

    @property
    def caller_name(self) -> str:
        return self.key.name if self.key else self.person or self.owner

    @property
    def tokens_per_second(self) -> float | None:
        """Output tokens over the whole duration."""
        has_output = self.completion_tokens and self.total_seconds
        return self.completion_tokens / self.total_seconds if has_output else None


class RefusedRequest(models.Model):
    """A request that was refused before it was accepted; or, with a `count`, many of one key and code."""

    at = models.DateTimeField(db_index=True)
    owner = models.CharField(max_length=100, blank=True)  # as in the ledger; empty: nobody known
    status = models.PositiveSmallIntegerField()
    code = models.CharField(max_length=60)
    request_id = models.CharField(max_length=128, blank=True)
    endpoint = models.CharField(max_length=100, blank=True)
    transport = models.CharField(max_length=20, blank=True)
    param = models.CharField(max_length=100, blank=True)
    ip = models.CharField(max_length=64, blank=True)
    limit = models.CharField(max_length=40, blank=True)  # the key's limit that refused: a column of `Limit`
    limit_value = models.PositiveBigIntegerField(null=True)
    frees_at = models.DateTimeField(null=True)  # when another try may pass
    count = models.PositiveBigIntegerField(default=1)

    class Meta:
        indexes = [models.Index(fields=["owner", "at"])]

    caller_name = ""  # set by queries that look it up

    def __str__(self) -> str:
        return f"{self.status} {self.code}"

    @property
    def is_key(self) -> bool:
        return bool(self.owner) and not self.owner.startswith("user:")
