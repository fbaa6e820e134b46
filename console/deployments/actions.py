"""What people want in memory: load, unload, keep, force. Written here; the reconciler brings it about."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.utils import timezone

from console.audit.actor import Actor
from console.audit.write import write
from console.catalog.models import Deployment, Revision
from console.catalog.reconcile_signal import signal_reconciler
from console.deployments import memory_budget
from console.deployments.load_on_demand import wake

__all__ = ["DeploymentRefused", "force", "load", "release", "set_keeping", "unload", "wake"]

BY_ITSELF = Actor.system("reconciler")  # the actor of what nobody did


class DeploymentRefused(RuntimeError):
    """What cannot be; the message says why."""


@transaction.atomic
def load(*, actor: Actor, revision: Revision, reason: str = "") -> None:
    """Want it loaded; a failed load is tried again. Raises `DeploymentRefused`."""
    deployment = _locked(revision)
    _check_loadable(deployment)
    deployment.wanted = Deployment.Wanted.LOADED
    if deployment.state == Deployment.State.FAILED:
        deployment.state, deployment.reason = Deployment.State.ABSENT, ""
        deployment.state_at = timezone.now()
    deployment.save()
    _note(actor, "deployment.load", revision, **({"reason": reason} if reason else {}))


@transaction.atomic
def unload(*, actor: Actor, revision: Revision) -> None:
    """Want it out of memory: requests in flight finish first. Refused while a route sends it requests."""
    deployment = _locked(revision)
    route = revision.arms.filter(weight__gt=0).values_list("route__name", flat=True).first()
    if route is not None:
        raise DeploymentRefused(
            f"the route {route} sends requests to {revision.id}: lead it elsewhere first, then unload"
        )
    deployment.wanted, deployment.is_pinned, deployment.is_forced = Deployment.Wanted.UNLOADED, False, False
    deployment.save()
    _note(actor, "deployment.unload", revision)


@transaction.atomic
def set_keeping(*, actor: Actor, revision: Revision, is_pinned: bool, idle_seconds: int | None) -> None:
    """Pinned: neither idleness nor another's need unloads it. `idle_seconds`: None as installed, 0 never."""
    deployment = _locked(revision)
    before = {"is_pinned": deployment.is_pinned, "idle_seconds": deployment.idle_seconds}
    after = {"is_pinned": is_pinned, "idle_seconds": idle_seconds}
    if before == after:
        return
    deployment.is_pinned, deployment.idle_seconds = is_pinned, idle_seconds
    deployment.save()
    _note(actor, "deployment.keep", revision, before=before, after=after)


@transaction.atomic
def force(*, actor: Actor, revision: Revision) -> None:
    """Serve this revision alone: all others leave memory, and requests for them answer 400 meanwhile."""
    deployment = _locked(revision)
    _check_loadable(deployment)
    Deployment.objects.filter(is_forced=True).exclude(pk=deployment.pk).update(is_forced=False)
    deployment.is_forced, deployment.wanted = True, Deployment.Wanted.LOADED
    deployment.save()
    _note(actor, "deployment.force", revision)


@transaction.atomic
def release(*, actor: Actor) -> None:
    """End the force: what is wanted comes back."""
    forced = Deployment.objects.select_for_update().filter(is_forced=True).select_related("revision").first()
    if forced is None:
        return
    forced.is_forced = False
    forced.save()
    _note(actor, "deployment.release", forced.revision)


@transaction.atomic
def rest(*, revision: str, reason: str) -> bool:
    """By the reconciler itself: a revision that leaves although it was wanted; the next request wakes it."""
    wanted = Deployment.objects.filter(revision_id=revision, wanted=Deployment.Wanted.LOADED, is_pinned=False)
    if not wanted.update(wanted=Deployment.Wanted.UNLOADED):
        return False
    write(actor=BY_ITSELF, action="deployment.unload", target=revision, detail={"reason": reason})
    return True


def _locked(revision: Revision) -> Deployment:
    Deployment.objects.get_or_create(revision=revision)
    return Deployment.objects.select_for_update().get(revision=revision)


def _check_loadable(deployment: Deployment) -> None:
    revision = deployment.revision
    if deployment.files_deleted_at is not None:
        raise DeploymentRefused(f"the files of revision {revision.id} have been deleted: import it again")
    needed, total = memory_budget.need(revision).bytes, memory_budget.budget()
    if needed > total:
        raise DeploymentRefused(
            f"revision {revision.id} needs {_mb(needed)} of memory, and all revisions together may take "
            f"{_mb(total)}: raise MEMORY_BUDGET, quantize it, or give it fewer blocks"
        )


def _mb(num_bytes: int) -> str:
    return f"{num_bytes / 10**6:,.0f} MB"


def _note(actor: Actor, action: str, revision: Revision, **detail: Any) -> None:
    write(actor=actor, action=action, target=revision.id, detail=detail)
    signal_reconciler()
