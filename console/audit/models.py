"""The audit log: what people changed, append-only and chained by hash."""

from __future__ import annotations

from typing import Any, NoReturn

from django.db import models
from django.utils.translation import gettext_lazy as _


class AppendOnly(Exception):
    """Somebody tried to change or delete what has been written."""


class EntryQuerySet(models.QuerySet["Entry"]):
    def update(self, **kwargs: Any) -> NoReturn:
        raise AppendOnly("audit entries cannot be changed")

    def delete(self) -> NoReturn:
        raise AppendOnly("audit entries cannot be deleted")


class Entry(models.Model):
    """One thing that somebody did. `detail` is kept as the very text that was hashed."""

    seq = models.BigIntegerField(primary_key=True)  # 1, 2, 3, ... without gaps
    at = models.DateTimeField(db_index=True)
    actor = models.CharField(max_length=200, db_index=True)
    ip = models.CharField(max_length=64, blank=True)
    action = models.CharField(max_length=100, db_index=True)
    target = models.CharField(max_length=300, blank=True)
    detail = models.TextField(default="{}")  # canonical JSON
    prev_hash = models.CharField(max_length=64)
    hash = models.CharField(max_length=64)
    mac = models.CharField(max_length=64, blank=True)  # empty: written by a version that made none

    objects = EntryQuerySet.as_manager()

    class Meta:
        verbose_name = _("entry")
        verbose_name_plural = _("entries")

    def __str__(self) -> str:
        return f"{self.seq} {self.action} {self.target}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise AppendOnly("audit entries cannot be changed")
        super().save(*args, **(kwargs | {"force_insert": True}))

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise AppendOnly("audit entries cannot be deleted")


class Head(models.Model):
    """Where the chain ends: the row that writers lock, and what a cut-off tail is noticed by."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    seq = models.BigIntegerField(default=0)
    hash = models.CharField(max_length=64, default="0" * 64)
    keyed_from = models.BigIntegerField(
        null=True
    )  # the first entry with a code; the checkpoint's word counts
