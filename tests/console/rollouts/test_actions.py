"""Rollouts as people steer them: start, hold, go on, promote, abort, undo, release; and switches at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from console.audit.actor import Actor
from console.audit.models import Entry
from console.catalog.models import Deployment, Route
from console.catalog.routes import BadRoute
from console.rollouts import actions
from console.rollouts.errors import RolloutChanged, RolloutRefused
from console.rollouts.models import Rollout
from console.rollouts.state_machine import BadSteps, RolloutEvent, Step
from console.rollouts.transition import move
from tests.catalog_rows import make_revision, serve
from tests.console.rollouts.rows import (
    STEPS,
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


@pytest.fixture(autouse=True)
def _rows(db: None) -> None:
    furnish()


def running() -> Rollout:
    """A rollout at its first step."""
    row = begun()
    observe("stub-2", Deployment.State.READY)
    return move(actor=Actor.system("rollout"), rollout=row.pk, event=RolloutEvent.READY, now=timezone.now())


def refused(code: str, act: Callable[[], object]) -> str:
    before = Entry.objects.count(), shares_of()
    with pytest.raises(RolloutRefused) as refusal:
        act()
    assert refusal.value.code == code
    assert (Entry.objects.count(), shares_of()) == before
    return str(refusal.value)


def test_a_candidate_is_wanted_loaded_and_answers_nothing_until_it_is() -> None:
    row = begun()
    assert row.state == "preparing"
    assert shares_of() == {"stub-1": 100, "stub-2": 0}
    assert Deployment.objects.get(pk="stub-2").wanted == Deployment.Wanted.LOADED
    entry = Entry.objects.get(action="rollout.start")
    assert (entry.actor, entry.target) == ("maria", f"stub #{row.pk}")
    assert_legal()


def test_from_the_first_step_to_promotion_and_back() -> None:
    row = running()
    assert answers() == {"stub-1": 90, "stub-2": 10}
    actions.advance(actor=Actor.person("maria"), rollout=row.pk)
    assert answers() == {"stub-1": 50, "stub-2": 50}
    actions.advance(actor=Actor.person("maria"), rollout=row.pk)
    done = actions.promote(actor=Actor.person("maria"), rollout=row.pk)
    assert (done.state, done.ended_by) == ("promoted", "maria")
    assert shares_of() == {"stub-1": 0, "stub-2": 100}, "the old revision is kept for an undo"
    undone = actions.undo(actor=Actor.person("li"), rollout=row.pk, reason="answers too long")
    assert (undone.state, undone.ended_by, answers()) == ("undone", "li", {"stub-1": 100})
    entry = Entry.objects.get(action="rollout.undo")
    assert '"reason":"answers too long"' in entry.detail
    assert_legal()


def test_an_abort_leads_everything_back_at_once() -> None:
    row = running()
    actions.abort(actor=Actor.person("maria"), rollout=row.pk, reason="too slow")
    row.refresh_from_db()
    assert (row.state, row.reason, shares_of()) == ("aborted", "too slow", {"stub-1": 100})
    refused("not_possible", lambda: actions.resume(actor=Actor.person("maria"), rollout=row.pk))
    assert_legal()


def test_a_rollout_is_held_and_goes_on() -> None:
    row = running()
    actions.pause(actor=Actor.person("maria"), rollout=row.pk)
    assert answers() == {"stub-1": 90, "stub-2": 10}
    actions.resume(actor=Actor.person("maria"), rollout=row.pk)
    refused("not_possible", lambda: actions.resume(actor=Actor.person("maria"), rollout=row.pk))
    assert_legal()


def test_promotion_before_the_last_step_has_to_be_forced() -> None:
    row = running()
    refused("not_last_step", lambda: actions.promote(actor=Actor.person("maria"), rollout=row.pk))
    actions.promote(actor=Actor.person("maria"), rollout=row.pk, is_forced=True)
    assert answers() == {"stub-2": 100}
    assert_legal()


def test_a_candidate_that_is_not_loaded_is_not_promoted() -> None:
    row = running()
    observe("stub-2", Deployment.State.ABSENT)
    refused(
        "candidate_not_ready",
        lambda: actions.promote(actor=Actor.person("maria"), rollout=row.pk, is_forced=True),
    )
    refused("candidate_not_ready", lambda: actions.advance(actor=Actor.person("maria"), rollout=row.pk))


def test_without_a_certificate_a_quantized_candidate_gets_a_share_but_never_all() -> None:
    make_quantized()
    row = begun(candidate="stub-int8")
    observe("stub-int8", Deployment.State.READY)
    move(actor=Actor.system("rollout"), rollout=row.pk, event=RolloutEvent.READY, now=timezone.now())
    actions.advance(actor=Actor.person("maria"), rollout=row.pk)
    why = refused("not_certified", lambda: actions.advance(actor=Actor.person("maria"), rollout=row.pk))
    assert "stub-int8" in why
    refused(
        "not_certified", lambda: actions.promote(actor=Actor.person("maria"), rollout=row.pk, is_forced=True)
    )
    certify("stub-int8", has_passed=False)
    refused("not_certified", lambda: actions.advance(actor=Actor.person("maria"), rollout=row.pk))
    certify("stub-int8")
    actions.advance(actor=Actor.person("maria"), rollout=row.pk)
    actions.promote(actor=Actor.person("maria"), rollout=row.pk)
    assert answers() == {"stub-int8": 100}
    assert_legal()


def test_no_other_door_leads_everything_to_an_unproven_revision() -> None:
    for name in ("stub-a", "stub-b"):
        make_quantized(name)
    refused("not_certified", lambda: switched({"stub-a": 100}))
    refused("not_certified", lambda: switched({"stub-a": 50, "stub-b": 50}))
    refused("not_certified", lambda: begun(candidate="stub-a", steps=(Step(100),)))
    refused("not_certified", lambda: switched({"stub-a": 100}, route="alias"))
    switched({"stub-a": 50, "stub-1": 50})
    assert answers() == {"stub-1": 50, "stub-a": 50}


def test_one_rollout_of_a_route_at_a_time() -> None:
    row = begun()
    make_revision("stub", "stub-3")
    refused("rollout_active", lambda: begun(candidate="stub-3"))
    refused("rollout_active", lambda: switched({"stub-3": 100}))
    with pytest.raises(IntegrityError), transaction.atomic():
        Rollout.objects.create(
            route=row.route, candidate_id="stub-3", shares_before=[], actor="past the actions"
        )
    actions.abort(actor=Actor.person("maria"), rollout=row.pk)
    assert begun(candidate="stub-3").state == "preparing"


@pytest.mark.parametrize("candidate", ["stub-1", "no-such-revision"])
def test_a_candidate_that_makes_no_sense_is_refused(candidate: str) -> None:
    with pytest.raises(BadRoute):
        begun(candidate=candidate)


def test_a_first_step_below_what_the_candidate_has_is_refused() -> None:
    switched({"stub-1": 60, "stub-2": 40})
    with pytest.raises(BadSteps):
        begun(steps=(Step(40), Step(100)))
    row = begun(steps=(Step(70), Step(100)))
    assert answers() == {"stub-1": 60, "stub-2": 40}
    actions.abort(actor=Actor.person("maria"), rollout=row.pk)
    assert answers() == {"stub-1": 60, "stub-2": 40}


def test_who_decides_on_what_is_past_is_told_so() -> None:
    row = running()
    actions.pause(actor=Actor.person("li"), rollout=row.pk, version=row.version)
    refused(
        "changed_meanwhile",
        lambda: actions.abort(actor=Actor.person("maria"), rollout=row.pk, version=row.version),
    )
    version = Route.objects.get(name="stub").version
    actions.abort(actor=Actor.person("li"), rollout=row.pk)
    refused("changed_meanwhile", lambda: switched({"stub-2": 100}, version=version))


def test_shares_that_somebody_changed_outside_the_rollout_are_not_built_upon() -> None:
    from console.catalog.routes import set_shares

    row = running()
    set_shares(actor=Actor.person("script"), name="stub", weights={"stub-1": 100})
    refused("changed_meanwhile", lambda: actions.advance(actor=Actor.person("maria"), rollout=row.pk))


def switched(weights: dict[str, int], *, route: str = "stub", version: int | None = None) -> Rollout | None:
    return actions.switch(actor=Actor.person("maria"), route=route, weights=weights, version=version)


def test_a_switch_is_undone_with_one_click() -> None:
    row = switched({"stub-2": 100})
    assert row is not None and shares_of() == {"stub-1": 0, "stub-2": 100}
    assert Entry.objects.filter(action="route.change", actor="maria").count() == 1
    actions.undo(actor=Actor.person("maria"), rollout=row.pk)
    assert answers() == {"stub-1": 100}
    refused("not_possible", lambda: actions.undo(actor=Actor.person("maria"), rollout=row.pk))
    assert_legal()


def test_a_switch_to_what_is_already_changes_nothing() -> None:
    assert switched({"stub-1": 100}) is None
    assert not Rollout.objects.exists()


def test_a_route_is_made_led_elsewhere_and_taken_out_of_service() -> None:
    switched({"stub-1": 70, "stub-2": 30}, route="alias")
    assert answers("alias") == {"stub-1": 70, "stub-2": 30}
    gone = switched({}, route="alias")
    assert gone is not None and shares_of("alias") == {}
    actions.undo(actor=Actor.person("maria"), rollout=gone.pk)
    assert answers("alias") == {"stub-1": 70, "stub-2": 30}


def test_shares_that_cannot_be_are_refused() -> None:
    with pytest.raises(BadRoute):
        switched({"stub-1": 70, "stub-2": 20})
    with pytest.raises(BadRoute):
        switched({"stub-1": 100}, route="No Name")


def test_only_the_newest_change_of_a_route_is_undone_and_then_the_one_before() -> None:
    make_revision("stub", "stub-3")
    first, second = switched({"stub-2": 100}), switched({"stub-3": 100})
    assert first is not None and second is not None
    refused("not_newest", lambda: actions.undo(actor=Actor.person("maria"), rollout=first.pk))
    actions.undo(actor=Actor.person("maria"), rollout=second.pk)
    actions.undo(actor=Actor.person("maria"), rollout=first.pk)
    assert answers() == {"stub-1": 100}


def test_a_released_revision_may_be_unloaded_and_the_undo_still_works() -> None:
    row = switched({"stub-2": 100})
    assert row is not None
    actions.release(actor=Actor.person("maria"), rollout=row.pk)
    assert shares_of() == {"stub-2": 100}
    assert Deployment.objects.get(pk="stub-1").wanted == Deployment.Wanted.UNLOADED
    refused("nothing_kept", lambda: actions.release(actor=Actor.person("maria"), rollout=row.pk))
    actions.undo(actor=Actor.person("maria"), rollout=row.pk)
    assert answers() == {"stub-1": 100}
    assert Deployment.objects.get(pk="stub-1").wanted == Deployment.Wanted.LOADED
    assert_legal()


def test_a_revision_that_answers_elsewhere_stays_loaded_when_it_is_released() -> None:
    serve("other-name", "stub-1")
    row = switched({"stub-2": 100})
    assert row is not None
    actions.release(actor=Actor.person("maria"), rollout=row.pk)
    assert Deployment.objects.get(pk="stub-1").wanted == Deployment.Wanted.LOADED


@pytest.mark.django_db(transaction=True)
def test_of_two_people_racing_one_wins_and_the_other_is_told() -> None:
    row = running()
    outcomes, barrier = list[str](), threading.Barrier(2)

    def decide(act: Callable[..., Rollout]) -> None:
        barrier.wait()
        try:
            outcomes.append(act(actor=Actor.person("someone"), rollout=row.pk, version=row.version).state)
        except RolloutChanged:
            outcomes.append("changed")
        finally:
            connection.close()

    racers = [threading.Thread(target=decide, args=(act,)) for act in (actions.abort, actions.pause)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert sorted(outcomes) in (["aborted", "changed"], ["changed", "paused"])
    assert_legal()


@pytest.mark.django_db(transaction=True)
def test_of_two_people_starting_one_wins() -> None:
    make_revision("stub", "stub-3")
    outcomes, barrier = list[str](), threading.Barrier(2)

    def begin(candidate: str) -> None:
        barrier.wait()
        try:
            outcomes.append(begun(candidate=candidate, steps=STEPS).state)
        except RolloutRefused as refusal:
            outcomes.append(refusal.code)
        finally:
            connection.close()

    racers = [threading.Thread(target=begin, args=(name,)) for name in ("stub-2", "stub-3")]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert sorted(outcomes) == ["preparing", "rollout_active"]
    assert_legal()
