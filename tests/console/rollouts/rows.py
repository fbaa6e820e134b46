"""Routes and rollouts that these tests start from, and what must hold after whatever happened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.utils import timezone

from console.audit.models import Entry
from console.audit.verify import verify
from console.catalog.models import Certificate, Deployment, Revision, Route
from console.catalog.routes import shares
from console.rollouts import actions
from console.rollouts.machine import ALL, Step
from console.rollouts.models import Rollout
from console.rollouts.shares import answering
from tests.catalog_rows import make_revision, serve

STEPS = (Step(10, 60), Step(50, 60), Step(ALL))


def furnish() -> None:
    """The name `stub` leads to stub-1; stub-2 waits to be rolled out."""
    serve("stub", "stub-1")
    make_revision("stub", "stub-2")
    observe("stub-1", Deployment.State.READY)


def observe(revision: str, state: Deployment.State, **columns: Any) -> None:
    """What the reconciler would have found."""
    Deployment.objects.filter(pk=revision).update(state=state, state_at=timezone.now(), **columns)


def begun(*, route: str = "stub", candidate: str = "stub-2", steps: Sequence[Step] = STEPS) -> Rollout:
    return actions.start(actor="maria", route=route, candidate=candidate, steps=steps)


def shares_of(route: str = "stub") -> dict[str, int]:
    return shares(Route.objects.get(name=route))


def answers(route: str = "stub") -> dict[str, int]:
    return answering(shares_of(route))


def certify(revision: str, *, has_passed: bool = True) -> None:
    child = Revision.objects.get(pk=revision)
    assert child.parent is not None
    Certificate.objects.create(
        revision=child,
        parent=child.parent,
        files_digest="f",
        parent_digest="p",
        corpus_digest="c",
        measured_by={},
        figures={},
        thresholds={},
        has_passed=has_passed,
    )


def assert_legal() -> None:
    """Shares are what each rollout's state asks for; every transition left exactly one audit entry."""
    for row in Rollout.objects.select_related("route"):
        name = row.route.name
        assert sum(shares_of(name).values()) in (0, ALL)
        entries = Entry.objects.filter(action__startswith="rollout.", target=f"{name} #{row.pk}")
        begun = int(row.strategy == Rollout.Strategy.CANARY)  # a switch begins with the entry of its route
        assert entries.count() == row.version + begun
        if row.is_active:
            assert answers(name) == row.reached
    assert verify().is_intact
