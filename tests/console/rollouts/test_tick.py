"""What a rollout does by itself, with the reconciler's findings written by hand."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from django.utils import timezone

from console.audit.actor import Actor
from console.audit.models import Entry
from console.catalog.models import Deployment
from console.catalog.routes import set_shares
from console.rollouts import actions
from console.rollouts.models import Rollout
from console.rollouts.state_machine import Step
from console.rollouts.tick import tick
from tests.catalog_rows import make_revision
from tests.console.rollouts.rows import (
    answers,
    assert_legal,
    begun,
    certify,
    furnish,
    make_quantized,
    observe,
    shares_of,
)

pytestmark = pytest.mark.django_db

READY, FAILED = Deployment.State.READY, Deployment.State.FAILED


@pytest.fixture(autouse=True)
def _rows(db: None) -> None:
    furnish()


def later(seconds: float) -> datetime:
    return timezone.now() + timedelta(seconds=seconds)


def look(row: Rollout) -> Rollout:
    row.refresh_from_db()
    return row


def test_it_begins_when_the_candidate_is_loaded_and_goes_on_when_pauses_are_over() -> None:
    row = begun()
    tick(later(0))
    assert look(row).state == "preparing"
    observe("stub-2", READY)
    tick(later(0))
    assert answers() == {"stub-1": 90, "stub-2": 10}
    tick(later(50))
    assert answers() == {"stub-1": 90, "stub-2": 10}
    tick(later(61))
    assert answers() == {"stub-1": 50, "stub-2": 50}
    tick(later(200))
    tick(later(9000))
    assert (look(row).state, shares_of()) == ("stepping", {"stub-1": 0, "stub-2": 100}), "a person decides"
    assert_legal()


def test_it_gives_up_with_the_reason_when_the_candidate_cannot_be_loaded() -> None:
    row = begun()
    observe("stub-2", FAILED, reason="out of memory")
    tick(later(1))
    assert (look(row).state, row.reason) == ("aborted", "the candidate failed: out of memory")
    assert shares_of() == {"stub-1": 100}
    assert_legal()


@pytest.mark.parametrize("is_paused", [False, True])
def test_it_gives_up_when_the_candidates_engine_dies_on_the_way(is_paused: bool) -> None:
    row = begun()
    observe("stub-2", READY)
    tick(later(0))
    if is_paused:
        actions.pause(actor=Actor.person("maria"), rollout=row.pk)
    observe("stub-2", FAILED, reason="the engine died")
    tick(later(1))
    assert (look(row).state, answers()) == ("aborted", {"stub-1": 100})
    assert_legal()


def test_a_failure_from_before_the_rollout_is_not_held_against_it() -> None:
    observe("stub-2", FAILED)
    row = begun()
    tick(later(1))
    assert look(row).state == "preparing"


def test_a_paused_rollout_stays_where_it_is() -> None:
    row = begun()
    observe("stub-2", READY)
    tick(later(0))
    actions.pause(actor=Actor.person("maria"), rollout=row.pk)
    tick(later(9000))
    assert (look(row).state, answers()) == ("paused", {"stub-1": 90, "stub-2": 10})


def test_a_candidate_that_is_unloaded_on_the_way_is_waited_for() -> None:
    row = begun()
    observe("stub-2", READY)
    tick(later(0))
    observe("stub-2", Deployment.State.ABSENT)
    tick(later(9000))
    assert look(row).step_index == 0


def test_without_a_certificate_it_is_held_before_100_percent_until_there_is_one() -> None:
    make_quantized()
    row = begun(candidate="stub-int8", steps=(Step(50, 60), Step(100, 60)))
    observe("stub-int8", READY)
    tick(later(0))
    for _ in range(3):
        tick(later(100))
    assert look(row).state == "paused" and "certificate" in row.reason
    assert answers() == {"stub-1": 50, "stub-int8": 50}
    assert Entry.objects.filter(action="rollout.pause").count() == 1, "said once, not with every tick"
    certify("stub-int8")
    actions.resume(actor=Actor.person("maria"), rollout=row.pk)
    tick(later(100))
    assert answers() == {"stub-int8": 100}
    tick(later(300))
    assert look(row).state == "promoted"
    assert_legal()


def test_shares_that_somebody_changed_past_the_rollout_end_it_and_stay() -> None:
    row = begun()
    observe("stub-2", READY)
    tick(later(0))
    set_shares(actor=Actor.person("script"), name="stub", weights={"stub-1": 70, "stub-2": 30})
    tick(later(0))
    tick(later(0))
    assert (look(row).state, answers()) == ("aborted", {"stub-1": 70, "stub-2": 30})
    assert "outside the rollout" in row.reason
    assert Entry.objects.filter(action="rollout.abort").count() == 1


def test_one_that_cannot_go_on_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from console.rollouts import tick as module

    make_revision("other", "other-1")
    make_revision("other", "other-2")
    set_shares(actor=Actor.person("test"), name="other", weights={"other-1": 100})
    begun()
    second = begun(route="other", candidate="other-2")
    observe("stub-2", READY)
    observe("other-2", READY)
    due = module.due_event

    def broken(row: Rollout, now: datetime) -> object:
        if row.candidate_id == "stub-2":
            raise RuntimeError("broken")
        return due(row, now)

    monkeypatch.setattr(module, "due_event", broken)
    tick(later(0))
    assert look(second).state == "stepping"
