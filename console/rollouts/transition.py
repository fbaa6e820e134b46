"""The one way in which a rollout goes on: row, shares and audit entry in one transaction."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.utils.translation import gettext as _

from console.audit.actor import Actor
from console.audit.write import write
from console.catalog.models import Route
from console.catalog.routes import BadRoute, apply_shares, shares
from console.certificates.status import NotCertified
from console.database.after_commit import after_commit
from console.database.ledger_transaction import in_turn
from console.rollouts.certificate_gate import require_proof
from console.rollouts.errors import RolloutChanged, RolloutRefused
from console.rollouts.models import Rollout
from console.rollouts.shares import answering, to_pairs
from console.rollouts.state_machine import ACTIVE, EventNotPossible, RolloutEvent, RolloutState, transition
from monitoring.metrics import ROLLOUTS

ACTIONS = {  # event -> action of the audit entry
    RolloutEvent.READY: "rollout.step",
    RolloutEvent.TIMER_ELAPSED: "rollout.step",
    RolloutEvent.ADVANCE: "rollout.step",
    RolloutEvent.PAUSE: "rollout.pause",
    RolloutEvent.RESUME: "rollout.resume",
    RolloutEvent.PROMOTE: "rollout.promote",
    RolloutEvent.FORCE: "rollout.promote",
    RolloutEvent.ABORT: "rollout.abort",
    RolloutEvent.FAILED: "rollout.abort",
    RolloutEvent.UNDO: "rollout.undo",
}


@in_turn
def move(
    *,
    actor: Actor,
    rollout: int,
    event: RolloutEvent,
    now: datetime,
    version: int | None = None,
    reason: str = "",
) -> Rollout:
    """Let `event` happen. Raises `RolloutRefused`; `RolloutChanged` when `version` has passed."""
    row = locked(rollout, version)
    before = shares(row.route)
    if answering(before) != row.reached:
        raise RolloutChanged(_("The shares of this route were changed outside the rollout."))
    try:
        position = transition(row.position(), event, now)
    except EventNotPossible as error:
        raise RolloutRefused("not_possible", _not_possible(row)) from error
    row.take(position)
    after = row.shares_at(position)
    if event not in (RolloutEvent.UNDO, RolloutEvent.ABORT, RolloutEvent.FAILED):  # going back needs no proof
        prove(before, after)
    try:
        apply_shares(row.route, after)
    except BadRoute as error:
        raise RolloutRefused("bad_route", str(error)) from error
    if position.state is RolloutState.PROMOTED:
        row.shares_after = to_pairs(answering(after))
    save(row, actor=actor, reason=reason, now=now)
    detail: dict[str, Any] = {"state": row.state, "step": row.step_index + 1, "version": row.version}
    if before != after:
        detail |= {"before": before, "after": after}
    note(row, actor=actor, action=ACTIONS[event], detail=detail, reason=reason)
    return row


@in_turn
def abandon(*, actor: Actor, rollout: int, version: int, now: datetime) -> None:
    """End a rollout whose route somebody has changed outside it; the shares stay as they are."""
    row = locked(rollout, version)
    if answering(shares(row.route)) == row.reached:
        return
    reason = "the shares of the route were changed outside the rollout"
    row.take(transition(row.position(), RolloutEvent.FAILED, now))
    save(row, actor=actor, reason=reason, now=now)
    note(row, actor=actor, action="rollout.abort", detail={"state": row.state}, reason=reason)


def locked(rollout: int, version: int | None) -> Rollout:
    """The rollout and its route, ours until the transaction ends: the route first, as everywhere."""
    route = Rollout.objects.values_list("route_id", flat=True).get(pk=rollout)
    held = Route.objects.select_for_update().get(pk=route)
    row = Rollout.objects.select_for_update().get(pk=rollout)
    row.route = held
    if version is not None and version != row.version:
        raise RolloutChanged(_("The rollout has changed meanwhile: look at where it is now."))
    return row


def save(row: Rollout, *, actor: Actor, reason: str, now: datetime) -> None:
    row.version += 1
    row.reason = reason
    if not row.is_active:
        row.ended_at, row.ended_by = now, actor.name
        after_commit(ROLLOUTS.labels(row.state).inc, name="count rollout")
    row.save()


def note(row: Rollout, *, actor: Actor, action: str, detail: dict[str, Any], reason: str) -> None:
    detail |= {"reason": reason} if reason else {}
    write(actor=actor, action=action, target=target_of(row), detail=detail)


def target_of(row: Rollout) -> str:
    """What the audit log calls it."""
    return f"{row.route.name} #{row.pk}"


def prove(before: dict[str, int], after: dict[str, int]) -> None:
    try:
        require_proof(before, after)
    except NotCertified as error:
        raise RolloutRefused("not_certified", str(error)) from error


def _not_possible(row: Rollout) -> str:
    words = {"state": row.get_state_display()}
    if RolloutState(row.state) in ACTIVE:
        return _("This is not possible in the current state of the rollout: %(state)s.") % words
    return _("This is not possible any more: the rollout is %(state)s.") % words
