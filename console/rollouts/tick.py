"""What a rollout does by itself: begin when the candidate is loaded, go on when a pause is over, give up when
the candidate fails. The reconciler calls `tick` about twice a second, in one process at a time.
"""

from __future__ import annotations

import logging
from datetime import datetime
from functools import partial

from console.audit.actor import Actor
from console.catalog.models import Deployment
from console.catalog.routes import shares
from console.rollouts.certificate_gate import look_at_files
from console.rollouts.errors import RolloutChanged, RolloutRefused
from console.rollouts.models import Rollout
from console.rollouts.shares import answering
from console.rollouts.state_machine import ACTIVE, RolloutEvent, RolloutState
from console.rollouts.transition import abandon, move

logger = logging.getLogger(__name__)

ACTOR = Actor.system("rollout")


def tick(now: datetime) -> None:
    """Let every active rollout do what is due. One that cannot holds up no other."""
    active = Rollout.objects.filter(state__in=[state.value for state in ACTIVE])
    for row in active.select_related("route", "candidate__deployment").order_by("pk"):
        try:
            _tick(row, now)
        except RolloutChanged:
            continue  # a person was faster; the next tick looks again
        except Exception:
            logger.exception("rollout %s cannot go on", row)


def _tick(row: Rollout, now: datetime) -> None:
    if answering(shares(row.route)) != row.reached:
        abandon(actor=ACTOR, rollout=row.pk, version=row.version, now=now)
        return
    due = due_event(row, now)
    if due is None:
        return
    event, reason = due
    if event is RolloutEvent.TIMER_ELAPSED and row.candidate_id:
        look_at_files([row.candidate_id])
    go = partial(move, actor=ACTOR, rollout=row.pk, version=row.version, now=now)
    try:
        go(event=event, reason=reason)
    except RolloutRefused as refused:
        if refused.code != "not_certified":
            raise
        go(event=RolloutEvent.PAUSE, reason=str(refused))  # held until it is proven, or given up


def due_event(row: Rollout, now: datetime) -> tuple[RolloutEvent, str] | None:
    """What should happen to it now, and why."""
    assert row.candidate is not None  # only switches have none, and they are never active
    deployment, position = row.candidate.deployment, row.position()
    if deployment.files_deleted_at is not None:
        return RolloutEvent.FAILED, "the candidate's files have been deleted"
    # A failure from before the rollout is over: the rollout has asked for a new attempt.
    if deployment.state == Deployment.State.FAILED and deployment.state_at > row.created_at:
        return RolloutEvent.FAILED, f"the candidate failed: {deployment.reason or 'for no known reason'}"
    if deployment.state != Deployment.State.READY:
        return None
    if position.state is RolloutState.PREPARING:
        return RolloutEvent.READY, ""
    if position.state is RolloutState.STEPPING and position.seconds_left(now) == 0:
        return RolloutEvent.TIMER_ELAPSED, ""
    return None
