"""API keys: programs that may call the data plane. The secret itself is never kept."""

from __future__ import annotations

from datetime import datetime

from django.db import models
from django.db.models import Q
from django.db.models.expressions import Combinable

from console.accounts.models import Team


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def valid_at(self, moment: datetime | Combinable) -> ApiKeyQuerySet:
        return self.filter(Q(expires_at=None) | Q(expires_at__gt=moment), revoked_at=None)


class ApiKey(models.Model):
    """A key is never deleted, so that its public id is never given out again."""

    public_id = models.CharField(max_length=20, unique=True)
    digest = models.CharField(max_length=64)  # HMAC-SHA256 of the whole token, hex
    name = models.CharField(max_length=100)
    team = models.ForeignKey(Team, on_delete=models.PROTECT, related_name="keys")
    scopes = models.JSONField(default=list, blank=True)  # names of `scopes.all_scopes`; empty: every endpoint
    # Public names, not rows: a key outlives the models that it may ask for. Empty: every model.
    allowed_models = models.JSONField(default=list, blank=True)
    created_by = models.CharField(max_length=200)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)  # to the minute

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        verbose_name = "API key"
        verbose_name_plural = "API keys"

    def __str__(self) -> str:
        return f"{self.name} ({self.public_id})"

    def is_valid_at(self, moment: datetime) -> bool:
        return self.revoked_at is None and (self.expires_at is None or moment < self.expires_at)
