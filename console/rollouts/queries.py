"""What pages and programs read about routes and rollouts."""

from __future__ import annotations

from collections.abc import Iterable

from django.db.models import Prefetch, QuerySet

from console.audit import visibility
from console.audit.actor import Actor
from console.catalog.models import Arm, Deployment, Revision, Route
from console.catalog.routes import shares
from console.rollouts.models import Rollout
from console.rollouts.shares import answering
from console.rollouts.state_machine import ACTIVE, RolloutState

ACTIVE_STATES = [state.value for state in ACTIVE]


def rollouts(actor: Actor) -> QuerySet[Rollout]:
    """All of them, newest first, with what a page shows of each."""
    rows = visibility.visible_to(actor, Rollout.objects.all())
    return rows.select_related("route", "candidate__model", "candidate__deployment").order_by("-pk")


def active_rollouts(actor: Actor) -> QuerySet[Rollout]:
    return rollouts(actor).filter(state__in=ACTIVE_STATES)


def routes(actor: Actor) -> QuerySet[Route]:
    """Every name that something answers to or once did, with its arms, in order of name."""
    arms = Arm.objects.select_related("revision__model", "revision__deployment").order_by("pk")
    rows = visibility.visible_to(actor, Route.objects.all())
    return rows.prefetch_related(Prefetch("arms", arms)).order_by("name")


def active_of(route: Route) -> Rollout | None:
    return Rollout.objects.filter(route=route, state__in=ACTIVE_STATES).order_by("-pk").first()


def undoable_of(route: Route) -> Rollout | None:
    """The newest change of a route, while it can be undone: nothing has been changed since."""
    ended = [*ACTIVE_STATES, RolloutState.PROMOTED.value]
    newest = Rollout.objects.filter(route=route, state__in=ended).order_by("-pk").first()
    if newest is None or newest.is_active or answering(shares(route)) != newest.reached:
        return None
    return newest


def kept_for_undo(route: Route) -> list[str]:
    """Revisions that stay loaded without answering anything."""
    return [revision for revision, weight in shares(route).items() if not weight]


def offered_revisions(*, limit: int, route: Route | None = None) -> list[Revision]:
    """What may be rolled out, newest first: all whose files are there. `route`: of its models alone."""
    there = Revision.objects.filter(deployment__files_deleted_at=None).defer("files")
    if route is not None:
        there = there.filter(model__in=models_of(route))
    return list(there.select_related("model", "deployment").order_by("-created_at")[:limit])


def models_of(route: Route) -> list[int]:
    """The models whose revisions answer to a name."""
    answered = Revision.objects.filter(id__in=list(answering(shares(route))))
    return list(answered.values_list("model", flat=True).distinct())


def deployments_of(revisions: Iterable[str]) -> dict[str, Deployment]:
    return {one.pk: one for one in Deployment.objects.filter(pk__in=list(revisions))}
