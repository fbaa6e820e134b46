"""Exactly one server reconciles: the first that comes, until it ends, dies or falls silent."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.utils import timezone

from console.catalog.models import ReconcilerLease
from console.database.process_lease import Lease
from console.deployments import reconciler_lease
from inference.protocol.stats import Device

pytestmark = pytest.mark.django_db

CPU = Device("cpu", "float32", total_bytes=2, free_bytes=1)


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> Callable[[Lease], None]:
    """Be another server from now on."""

    def change(server: Lease) -> None:
        monkeypatch.setattr(reconciler_lease, "own_lease", lambda: server)

    return change


def servers() -> tuple[Lease, Lease]:
    folder = Path(settings.LEASE_DIR)
    return Lease(folder), Lease(folder)


def test_the_first_has_it_until_it_gives_it_back(become: Callable[[Lease], None]) -> None:
    one, two = servers()
    become(one)
    assert reconciler_lease.hold(CPU) is False  # new: what the rows say is another's
    assert reconciler_lease.hold(CPU) is True
    assert ReconcilerLease.objects.get().device["name"] == "cpu"
    become(two)
    assert reconciler_lease.hold(CPU) is None
    reconciler_lease.release()  # not its own
    assert reconciler_lease.hold(CPU) is None
    become(one)
    reconciler_lease.release()
    become(two)
    assert reconciler_lease.hold(CPU) is False


def test_a_dead_holder_is_known_at_once_and_a_silent_one_after_a_while(
    become: Callable[[Lease], None],
) -> None:
    one, two = servers()
    become(one)
    reconciler_lease.hold(CPU)
    one.release()  # as its process ends
    become(two)
    assert reconciler_lease.hold(CPU) is False
    ReconcilerLease.objects.update(server="on-another-machine")
    assert reconciler_lease.hold(CPU) is None
    ReconcilerLease.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert reconciler_lease.hold(CPU) is False


def test_it_is_renewed_in_time(become: Callable[[Lease], None]) -> None:
    one, _ = servers()
    become(one)
    reconciler_lease.hold(CPU)
    soon = timezone.now() + timedelta(seconds=reconciler_lease.SECONDS - reconciler_lease.RENEW_SECONDS - 1)
    ReconcilerLease.objects.update(expires_at=soon)
    assert reconciler_lease.hold(CPU) is True
    assert ReconcilerLease.objects.get().expires_at > soon  # type: ignore[operator]
