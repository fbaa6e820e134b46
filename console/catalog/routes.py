"""Routes: which revisions answer to a public name, and in what shares. One place changes them."""

from __future__ import annotations

from collections.abc import Mapping

from django.core.exceptions import ValidationError
from django.db import transaction

from console.audit.actor import Actor
from console.audit.write import write
from console.catalog.models import PUBLIC_NAME, Deployment, Revision, Route
from console.catalog.reconcile_signal import signal_reconciler

ALL = 100  # percent


class BadRoute(ValueError):
    """A name or shares that cannot be; the message says why."""


class RouteChanged(RuntimeError):
    """Somebody else changed the route meanwhile."""


def shares(route: Route) -> dict[str, int]:
    """Revision id -> percent, the first arm first."""
    return dict(route.arms.values_list("revision_id", "weight"))


@transaction.atomic
def set_shares(
    *,
    actor: Actor,
    name: str,
    weights: Mapping[str, int],
    version: int | None = None,
    reason: str = "",
) -> Route:
    """Let `name` lead to these revisions, in percent; the route is made where there is none.

    Takes effect with the next request; requests in flight finish where they are. The revisions are wanted
    loaded from now on. Raises `BadRoute`, and `RouteChanged` when `version` is not the route's any more.
    """
    _check_name(name)
    _check(weights)
    route, is_new = Route.objects.select_for_update().get_or_create(name=name)
    if version is not None and version != route.version:
        raise RouteChanged(f"the route {name} has been changed meanwhile")
    before = shares(route)
    if apply_shares(route, weights) or is_new:
        detail = {"before": before, "after": dict(weights)} | ({"reason": reason} if reason else {})
        write(actor=actor, action="route.change", target=name, detail=detail)
    return route


def apply_shares(route: Route, weights: Mapping[str, int]) -> bool:
    """`set_shares` without its audit entry, for a caller who holds the route's row locked and writes one.

    Says whether anything has changed. Arms that stay keep their place; new ones come last. An arm of 0 % is
    kept loaded without answering anything.
    """
    _check(weights)
    if shares(route) == dict(weights):
        return False
    route.arms.exclude(revision_id__in=weights).delete()
    for revision, weight in weights.items():
        route.arms.update_or_create(revision_id=revision, defaults={"weight": weight})
    route.version += 1
    route.save()
    Deployment.objects.filter(revision_id__in=weights).update(wanted=Deployment.Wanted.LOADED)
    signal_reconciler()
    return True


def _check_name(name: str) -> None:
    try:
        PUBLIC_NAME(name)
    except ValidationError as error:
        raise BadRoute(error.messages[0]) from error


def _check(weights: Mapping[str, int]) -> None:
    if any(not 0 <= weight <= ALL for weight in weights.values()):
        raise BadRoute("a share is a whole number of percent, 0 to 100")
    if weights and sum(weights.values()) != ALL:
        raise BadRoute(f"the shares sum to {sum(weights.values())} %, not to 100 %")
    known = set(Revision.objects.filter(id__in=weights).values_list("id", flat=True))
    if unknown := weights.keys() - known:
        raise BadRoute(f"no revision is named {', '.join(sorted(unknown))}")
    deleted = Deployment.objects.filter(revision_id__in=weights, files_deleted_at__isnull=False)
    if gone := deleted.values_list("revision_id", flat=True).first():
        raise BadRoute(f"the files of revision {gone} have been deleted")
