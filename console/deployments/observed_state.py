"""The observed half of a deployment's row: what the reconciler found. Nobody else writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime

from django.utils import timezone

from console.catalog.failure import Failure
from console.catalog.models import Deployment
from console.database.text import stored_text
from inference.protocol.stats import ModelCard

REASON_LENGTH = 2000
State = Deployment.State


def reset() -> None:
    """What the rows say of a process that is gone: nothing of it is in memory here."""
    changed = Deployment.objects.exclude(state=State.ABSENT)
    changed.update(state=State.ABSENT, stage="", fraction=0.0, reason="", state_at=timezone.now())


def loading(revision: str) -> None:
    _enter(revision, State.LOADING)


def loaded_so_far(revision: str, *, stage: str, fraction: float) -> None:
    Deployment.objects.filter(revision_id=revision, state=State.LOADING).update(
        stage=stored_text(stage, length=80), fraction=fraction
    )


def ready(card: ModelCard, *, load_seconds: float | None) -> None:
    row = Deployment.objects.get(revision_id=card.revision)
    row.state, row.stage, row.fraction, row.reason = State.READY, "", 1.0, ""
    row.failure = ""
    row.state_at = timezone.now()
    row.card, row.memory_bytes = asdict(card), card.memory_bytes or None
    row.load_seconds = row.load_seconds if load_seconds is None else load_seconds
    row.save(
        update_fields=[
            "state",
            "stage",
            "fraction",
            "reason",
            "failure",
            "state_at",
            "card",
            "memory_bytes",
            "load_seconds",
        ]
    )


def waiting(revision: str, reason: str) -> None:
    _enter(revision, State.WAITING, reason)


def unloading(revision: str, reason: str) -> None:
    _enter(revision, State.UNLOADING, reason)


def absent(revision: str, reason: str = "") -> None:
    _enter(revision, State.ABSENT, reason)


def failed(revision: str, reason: str, failure: Failure) -> None:
    _enter(revision, State.FAILED, reason)
    Deployment.objects.filter(revision_id=revision).exclude(failure=failure).update(failure=failure)


def used(moments: Mapping[str, float]) -> None:
    """Revision -> Unix time of its last request."""
    for revision, moment in moments.items():
        at = datetime.fromtimestamp(moment, timezone.get_current_timezone())
        Deployment.objects.filter(revision_id=revision).update(last_used_at=at)


def _enter(revision: str, state: State, reason: str = "") -> None:
    reason = stored_text(reason, length=REASON_LENGTH)
    rows = Deployment.objects.filter(revision_id=revision).exclude(state=state, reason=reason)
    rows.update(state=state, stage="", fraction=0.0, reason=reason, state_at=timezone.now())
