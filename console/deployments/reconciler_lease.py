"""Exactly one server reconciles: a row says which, and until when unless it says so again."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta

from django.utils import timezone

from console.catalog.models import ReconcilerLease
from console.database.process_lease import is_running, own_lease
from inference.protocol.stats import Device

SECONDS = 30.0  # a load may hold up everything in its process for a while
RENEW_SECONDS = 5.0
ROW = 1


def hold(device: Device) -> bool | None:
    """Take or keep the lease. True: it was kept; False: it has just become ours; None: another server's.

    A holder on this machine that has died is known at once; one elsewhere is waited for.
    """
    now, mine = timezone.now(), own_lease().server
    row, _ = ReconcilerLease.objects.get_or_create(pk=ROW)
    is_ours = row.server == mine
    if is_ours and row.expires_at and row.expires_at - now > timedelta(seconds=SECONDS - RENEW_SECONDS):
        return True
    is_free = not row.server or row.expires_at is None or row.expires_at < now
    if not (is_ours or is_free or is_running(row.server) is False):
        return None
    same = ReconcilerLease.objects.filter(pk=ROW, server=row.server, expires_at=row.expires_at)
    taken = same.update(server=mine, expires_at=now + timedelta(seconds=SECONDS), device=asdict(device))
    return is_ours if taken else None


def release() -> None:
    """Let the next server begin at once."""
    ReconcilerLease.objects.filter(pk=ROW, server=own_lease().server).update(expires_at=None)
