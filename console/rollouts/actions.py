"""What people do with rollouts: start one, hold it, go on, decide, take it back; or switch at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TypedDict, Unpack

from django.utils import timezone
from django.utils.translation import gettext as _

from console.audit.actor import Actor
from console.catalog.models import Deployment, Revision, Route
from console.catalog.routes import ALL, BadRoute, RouteChanged, apply_shares, set_shares, shares
from console.database.ledger_transaction import in_turn
from console.deployments.actions import DeploymentRefused, load, unload
from console.rollouts.certificate_gate import look_at_files
from console.rollouts.errors import RolloutChanged, RolloutRefused
from console.rollouts.models import Rollout
from console.rollouts.shares import answering, to_pairs
from console.rollouts.state_machine import ACTIVE, BadSteps, RolloutEvent, RolloutState, Step, begin
from console.rollouts.transition import locked, move, note, prove


class _Wish(TypedDict, total=False):
    actor: Actor
    rollout: int
    version: int | None
    reason: str


def start(
    *,
    actor: Actor,
    route: str,
    candidate: str,
    steps: Sequence[Step],
    another_model: bool = False,
    version: int | None = None,
    reason: str = "",
) -> Rollout:
    """Let the candidate be loaded; from then on tick.py gives it its shares of `route`, step by step.

    `version` is the route's. A candidate of a model that does not answer to the route yet needs
    `another_model`. Raises `RolloutRefused`, `BadSteps`, `BadRoute` and `Route.DoesNotExist`.
    """
    look_at_files([candidate])
    return _start(
        actor=actor,
        route=route,
        candidate=candidate,
        steps=steps,
        another_model=another_model,
        version=version,
        reason=reason,
    )


@in_turn
def _start(
    *,
    actor: Actor,
    route: str,
    candidate: str,
    steps: Sequence[Step],
    another_model: bool,
    version: int | None,
    reason: str,
) -> Rollout:
    now = timezone.now()
    row = _free_route(Route.objects.select_for_update().get(name=route), version)
    before = answering(shares(row))
    position = begin(steps, now=now)
    _check_candidate(candidate, before, steps, another_model=another_model)
    rollout = Rollout(
        route=row,
        candidate_id=candidate,
        steps=[asdict(step) for step in steps],
        shares_before=to_pairs(before),
        actor=actor.name,
        reason=reason,
        created_at=now,
    )
    rollout.take(position)
    rollout.save()
    apply_shares(row, rollout.shares_at(position))
    _load(actor, candidate)
    detail = {"candidate": candidate, "steps": rollout.steps, "before": before}
    note(rollout, actor=actor, action="rollout.start", detail=detail, reason=reason)
    return rollout


def pause(**wish: Unpack[_Wish]) -> Rollout:
    """Hold it where it is; the time of the pause does not count."""
    return move(event=RolloutEvent.PAUSE, now=timezone.now(), **wish)


def resume(**wish: Unpack[_Wish]) -> Rollout:
    return move(event=RolloutEvent.RESUME, now=timezone.now(), **wish)


def advance(**wish: Unpack[_Wish]) -> Rollout:
    """To the next step, whatever is left of this one's pause."""
    _look_at_candidate(wish["rollout"])
    return _advance(**wish)


@in_turn
def _advance(**wish: Unpack[_Wish]) -> Rollout:
    _require_ready(wish["rollout"])
    return move(event=RolloutEvent.ADVANCE, now=timezone.now(), **wish)


def promote(*, is_forced: bool = False, **wish: Unpack[_Wish]) -> Rollout:
    """Give all of the traffic to the candidate, which must be certified and ready.

    Before the last step only when `is_forced`. What it replaces stays loaded, for an undo.
    """
    _look_at_candidate(wish["rollout"])
    return _promote(is_forced=is_forced, **wish)


@in_turn
def _promote(*, is_forced: bool, **wish: Unpack[_Wish]) -> Rollout:
    row = locked(wish["rollout"], wish.get("version"))
    _require_ready(row.pk)
    is_early = row.is_active and not row.position().is_at_last
    if is_early and not is_forced:
        raise RolloutRefused("not_last_step", _("The last step is not reached: force it, or wait."))
    return move(event=RolloutEvent.FORCE if is_early else RolloutEvent.PROMOTE, now=timezone.now(), **wish)


def abort(**wish: Unpack[_Wish]) -> Rollout:
    """All of the traffic back to where it was; requests in flight finish on their revision."""
    return move(event=RolloutEvent.ABORT, now=timezone.now(), **wish)


@in_turn
def undo(**wish: Unpack[_Wish]) -> Rollout:
    """The shares go back to what they were before a promotion or a switch."""
    row = locked(wish["rollout"], wish.get("version"))
    position = [RolloutState.PROMOTED.value, *(state.value for state in ACTIVE)]
    if Rollout.objects.filter(route=row.route, pk__gt=row.pk, state__in=position).exists():
        raise RolloutRefused(
            "not_newest", _("The route has been changed since: only its newest change can be undone.")
        )
    return move(event=RolloutEvent.UNDO, now=timezone.now(), **wish)


@in_turn
def release(*, actor: Actor, rollout: int, version: int | None = None, reason: str = "") -> Rollout:
    """Keep the replaced revisions no longer: their memory is free, and an undo has to load them again."""
    row = locked(rollout, version)
    held = shares(row.route)
    kept = [revision for revision, weight in held.items() if not weight]
    if row.is_active or not kept or answering(held) != row.reached:
        raise RolloutRefused("nothing_kept", _("Nothing is kept for an undo of this rollout."))
    apply_shares(row.route, answering(held))
    for revision in Revision.objects.filter(pk__in=kept, deployment__is_pinned=False, arms=None):
        unload(actor=actor, revision=revision)
    row.released_at = timezone.now()
    row.version += 1
    row.save()
    note(row, actor=actor, action="rollout.release", detail={"revisions": kept}, reason=reason)
    return row


@in_turn
def create_route(*, actor: Actor, route: str, weights: Mapping[str, int], reason: str = "") -> None:
    """A switch of a name that nothing answers to yet."""
    if Route.objects.filter(name=route, arms__weight__gt=0).exists():
        raise RolloutRefused("route_exists", _("There is a route of that name."))
    switch(actor=actor, route=route, weights=weights, reason=reason)


def switch(
    *,
    actor: Actor,
    route: str,
    weights: Mapping[str, int],
    version: int | None = None,
    reason: str = "",
) -> Rollout | None:
    """Change a route's shares at once, or make a route, or (no weights) take its name out of service.

    It can be undone like a promotion: what it replaces stays loaded. None: there was nothing to change.
    """
    look_at_files(weights)
    return _switch(actor=actor, route=route, weights=weights, version=version, reason=reason)


@in_turn
def _switch(
    *,
    actor: Actor,
    route: str,
    weights: Mapping[str, int],
    version: int | None,
    reason: str,
) -> Rollout | None:
    row = Route.objects.select_for_update().filter(name=route).first()
    before = answering(shares(_free_route(row, version))) if row else {}
    after = answering(weights)
    if before == after:
        return None
    if after:
        prove(before, after)
    kept = dict.fromkeys(before.keys() - after.keys(), 0) if after else {}
    try:
        changed = set_shares(actor=actor, name=route, weights=after | kept, reason=reason)
    except RouteChanged as error:
        raise RolloutChanged(str(error)) from error
    return Rollout.objects.create(
        route=changed,
        strategy=Rollout.Strategy.SWITCH,
        shares_before=to_pairs(before),
        shares_after=to_pairs(after),
        state=RolloutState.PROMOTED.value,
        reason=reason,
        actor=actor.name,
        ended_by=actor.name,
        ended_at=timezone.now(),
    )


def _free_route(route: Route, version: int | None) -> Route:
    """The route, unless it has changed or a rollout is active on it."""
    if version is not None and version != route.version:
        raise RolloutChanged(_("The route has changed meanwhile: look at its shares again."))
    if Rollout.objects.filter(route=route, state__in=[state.value for state in ACTIVE]).exists():
        raise RolloutRefused(
            "rollout_active", _("A rollout is active on this route: promote or abort it first.")
        )
    return route


def _check_candidate(
    candidate: str, before: Mapping[str, int], steps: Sequence[Step], *, another_model: bool
) -> None:
    if not before:
        raise BadRoute(_("Nothing answers to this name yet: give it a revision first."))
    revision = Revision.objects.select_related("deployment").filter(id=candidate).first()
    if revision is None:
        raise BadRoute(_("There is no such revision."))
    if not another_model and not Revision.objects.filter(id__in=before, model=revision.model_id).exists():
        raise BadRoute(
            _("This revision is of another model than those that answer to this name: confirm that first.")
        )
    if before.get(candidate) == ALL:
        raise BadRoute(_("This revision answers everything already."))
    if steps[0].weight <= before.get(candidate, 0):
        raise BadSteps(_("The first step must give the candidate more than it has."))
    if steps[0].weight == ALL:
        prove(dict(before), {candidate: ALL})


def _require_ready(rollout: int) -> None:
    row = Rollout.objects.select_related("candidate__deployment").get(pk=rollout)
    if row.candidate is None or not row.is_active:
        return  # the state machine says that it is over
    if row.candidate.deployment.state != Deployment.State.READY:
        raise RolloutRefused("candidate_not_ready", _("The candidate is not loaded: wait until it is ready."))


def _look_at_candidate(rollout: int) -> None:
    candidate = Rollout.objects.values_list("candidate_id", flat=True).get(pk=rollout)
    look_at_files([candidate] if candidate else [])


def _load(actor: Actor, candidate: str) -> None:
    """Also tries again what has failed to load before."""
    try:
        load(actor=actor, revision=Revision.objects.get(pk=candidate), reason="rollout")
    except DeploymentRefused as error:
        raise RolloutRefused("not_loadable", str(error)) from error
