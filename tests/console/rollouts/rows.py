"""Routes and rollouts that these tests start from, and what must hold after whatever happened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.utils import timezone

from console.audit.actor import Actor
from console.audit.models import Entry
from console.audit.verify import verify
from console.catalog.models import Deployment, Revision, Route
from console.catalog.routes import shares
from console.certificates.status import _versions, issue
from console.rollouts import actions
from console.rollouts.models import Rollout
from console.rollouts.shares import answering
from console.rollouts.state_machine import ALL, Step
from inference import corpus
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
    return actions.start(actor=Actor.person("maria"), route=route, candidate=candidate, steps=steps)


def shares_of(route: str = "stub") -> dict[str, int]:
    return shares(Route.objects.get(name=route))


def answers(route: str = "stub") -> dict[str, int]:
    return answering(shares_of(route))


def make_quantized(revision: str = "stub-int8", parent: str = "stub-1") -> None:
    """A child that computes otherwise than its parent: it needs a certificate."""
    above = Revision.objects.get(pk=parent)
    make_revision("stub", revision, parent=above, engine={"quantization": "int8"})


def certify(revision: str, *, has_passed: bool = True) -> None:
    """As the job would, of figures that are good, or not."""
    worst = {"name": "lm_head", "weight_error": 0.012}
    figures = {
        "top1_agreement": 0.96 if has_passed else 0.5,
        "perplexity_ratio": 1.004,
        "kl_mean": 0.003,
        "kl_p99": 0.02,
        "worst_weight_error": 0.012,
        "worst_layer": "lm_head",
        "num_broken": 0,
        "layers": [worst],
    }
    runs_on = {"device": "cpu", "dtype": "float32"}
    measured_by = {**_versions(), "revision": runs_on, "parent": runs_on}
    measured = {"figures": figures, "corpus_digest": corpus.digest(), "measured_by": measured_by}
    issue(
        actor=Actor.person("test"), revision=Revision.objects.get(pk=revision), measured=measured, job="job-1"
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
