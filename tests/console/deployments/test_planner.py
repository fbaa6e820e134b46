"""What is loaded and unloaded next: single decisions, and whole histories drawn at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console.deployments.planner import (
    GRACE_SECONDS,
    Holding,
    Load,
    Step,
    Traffic,
    Unload,
    Wait,
    Wish,
    decide,
)

NOW = 1_000.0


def wish(revision: str, need: int = 10, **columns: Any) -> Wish:
    return Wish(revision, need, **({"is_wanted": True} | columns))


def choose(
    wishes: Sequence[Wish],
    holdings: Sequence[Holding] = (),
    *,
    budget: int = 100,
    in_flight: Mapping[str, int] | None = None,
    routes: Mapping[str, Traffic] | None = None,
) -> list[Step]:
    return decide(wishes, holdings, budget, NOW, in_flight or {}, routes or {})


def test_what_answers_most_is_loaded_first_and_one_at_a_time() -> None:
    routes = {"b": Traffic(90), "a": Traffic(10)}
    steps = choose([wish("a"), wish("b"), wish("c", is_pinned=True)], routes=routes)
    assert steps[0] == Load("b")
    assert [type(step) for step in steps[1:]] == [Wait, Wait]
    assert choose([wish("a")], [Holding("b", 10, is_loading=True)])[0] == Wait(
        "a", "another revision is being loaded"
    )


def test_what_is_not_wanted_leaves_once_nobody_can_have_chosen_it() -> None:
    gone = wish("a", is_wanted=False)
    here = [Holding("a", 10)]
    left = NOW - GRACE_SECONDS
    assert choose([gone], here, routes={"a": Traffic(0, left + 1)}) == []
    assert choose([gone], here, routes={"a": Traffic(0, left)}, in_flight={"a": 1}) == []
    assert choose([gone], here, routes={"a": Traffic(0, left)}) == [Unload("a", "not wanted any more")]
    assert choose([gone], here, routes={"a": Traffic(5)}) == []


def test_the_idle_go_but_for_the_pinned() -> None:
    idle = wish("a", idle_seconds=60, used_at=NOW - 60)
    here, routes = [Holding("a", 10)], {"a": Traffic(100)}
    assert choose([idle], here, routes=routes) == [Unload("a", "idle", is_rest=True)]
    assert choose([replace(idle, used_at=NOW - 59)], here, routes=routes) == []
    assert choose([replace(idle, idle_seconds=0)], here, routes=routes) == []
    assert choose([replace(idle, is_pinned=True)], here, routes=routes) == []
    assert choose([idle], here, routes=routes, in_flight={"a": 1}) == []


def test_the_least_recently_used_makes_room_and_no_more_of_them_than_needed() -> None:
    here = [Holding("new", 40), Holding("old", 40), Holding("busy", 20)]
    wishes = [wish("new", used_at=9), wish("old", used_at=5), wish("busy", used_at=1), wish("c", 30)]
    steps = choose(wishes, here, routes={"busy": Traffic(100)})
    assert steps == [
        Unload("old", "made room for c", is_rest=True),
        Wait("c", "memory is being freed"),
    ]


def test_nothing_leaves_for_what_would_not_fit_even_then() -> None:
    here = [Holding("a", 40), Holding("pinned", 50)]
    wishes = [wish("a"), wish("pinned", is_pinned=True), wish("c", 60), wish("d", 10)]
    steps = choose(wishes, here)
    assert Load("d") in steps
    assert Wait("c", "needs 0 MB, and 0 MB of 0 MB are free") in steps
    assert not any(isinstance(step, Unload) for step in steps)


def test_a_forced_revision_is_alone() -> None:
    wishes = [wish("a", is_pinned=True), wish("b", is_forced=True)]
    routes = {"a": Traffic(100)}
    steps = choose(wishes, [Holding("a", 10)], routes=routes)
    assert steps == [Unload("a", "another model is forced"), Load("b")]
    assert choose(wishes, [Holding("a", 10)], routes=routes, in_flight={"a": 1}) == [Load("b")]
    assert choose(wishes, [Holding("b", 10)], routes=routes) == []


def test_a_failed_load_waits_for_its_turn() -> None:
    assert choose([wish("a", retry_at=NOW + 1)]) == []
    assert choose([wish("a", retry_at=NOW)]) == [Load("a")]


@dataclass
class Simulated:
    """An engine and its rows, for histories."""

    budget: int
    wishes: dict[str, Wish]
    holdings: dict[str, Holding]
    routes: dict[str, Traffic]
    in_flight: dict[str, int]
    now: float = NOW

    def tick(self) -> list[Step]:
        steps = decide(
            list(self.wishes.values()),
            list(self.holdings.values()),
            self.budget,
            self.now,
            self.in_flight,
            self.routes,
        )
        for step in steps:
            match step:
                case Load(revision):
                    self._check_load(revision)
                    need = self.wishes[revision].need
                    self.holdings[revision] = Holding(revision, need, is_loading=True)
                case Unload(revision, _, is_rest):
                    self._check_unload(revision)
                    self.holdings[revision] = replace(self.holdings[revision], is_leaving=True)
                    if is_rest:
                        self.wishes[revision] = replace(self.wishes[revision], is_wanted=False)
        assert sum(one.bytes for one in self.holdings.values()) <= self.budget
        assert sum(one.is_loading for one in self.holdings.values()) <= 1
        return steps

    def _check_load(self, revision: str) -> None:
        wanted = self.wishes[revision]
        assert revision not in self.holdings
        assert wanted.is_wanted or wanted.is_forced
        assert wanted.retry_at <= self.now
        assert all(one is wanted or not one.is_forced for one in self.wishes.values())

    def _check_unload(self, revision: str) -> None:
        leaving, holding = self.wishes[revision], self.holdings[revision]
        assert not self.in_flight.get(revision)
        assert not (holding.is_loading or holding.is_leaving)
        if any(one.is_forced for one in self.wishes.values()):
            return
        is_idle = leaving.idle_seconds and self.now - leaving.used_at >= leaving.idle_seconds
        assert not self.routes.get(revision, Traffic()).weight or is_idle
        assert not (leaving.is_pinned and leaving.is_wanted)

    def finish(self) -> None:
        """Whatever is under way has ended."""
        for revision, holding in tuple(self.holdings.items()):
            if holding.is_leaving:
                del self.holdings[revision]
            elif holding.is_loading:
                self.holdings[revision] = replace(holding, is_loading=False)
                self.wishes[revision] = replace(self.wishes[revision], used_at=self.now)


NAMES = "abcd"


@st.composite
def houses(draw: st.DrawFn) -> Simulated:
    wishes, holdings = dict[str, Wish](), dict[str, Holding]()
    forced = draw(st.sampled_from([None, None, *NAMES]))
    budget = draw(st.integers(20, 60))
    for name in NAMES:
        wishes[name] = Wish(
            name,
            need=draw(st.integers(1, 40)),
            is_wanted=draw(st.booleans()),
            is_pinned=draw(st.booleans()),
            is_forced=name == forced,
            idle_seconds=draw(st.sampled_from([0, 0, 30])),
            used_at=NOW - draw(st.integers(0, 100)),
            retry_at=draw(st.sampled_from([0.0, NOW + 20])),
        )
        room = budget - sum(one.bytes for one in holdings.values())
        if draw(st.booleans()) and wishes[name].need <= room:
            holdings[name] = Holding(name, wishes[name].need)
    routes = {name: Traffic(draw(st.sampled_from([0, 0, 10, 90]))) for name in NAMES}
    in_flight = {name: draw(st.sampled_from([0, 0, 2])) for name in NAMES if name in holdings}
    return Simulated(budget, wishes, holdings, routes, in_flight)


CHANGES: list[Callable[[Simulated, str], None]] = [
    lambda house, name: house.finish(),
    lambda house, name: house.wishes.update({name: replace(house.wishes[name], is_wanted=True)}),
    lambda house, name: house.wishes.update({name: replace(house.wishes[name], is_wanted=False)}),
    lambda house, name: house.in_flight.update({name: 1}) if name in house.holdings else None,
    lambda house, name: house.in_flight.clear(),
    lambda house, name: house.routes.update({name: Traffic(50)}),
    lambda house, name: house.routes.update({name: Traffic(0, house.now)}),
    lambda house, name: setattr(house, "now", house.now + 7),
]


@settings(max_examples=300, deadline=None)
@given(
    houses(), st.lists(st.tuples(st.sampled_from(range(len(CHANGES))), st.sampled_from(NAMES)), max_size=25)
)
def test_no_history_breaks_the_rules(house: Simulated, history: list[tuple[int, str]]) -> None:
    house.tick()
    for change, name in history:
        CHANGES[change](house, name)
        house.tick()


@settings(max_examples=300, deadline=None)
@given(houses())
def test_left_alone_it_comes_to_rest_with_everything_there_that_can_be(house: Simulated) -> None:
    house.in_flight.clear()
    for _ in range(30):
        house.now += GRACE_SECONDS
        house.tick()
        house.finish()
    assert not any(isinstance(step, Load) for step in house.tick()), "it never comes to rest"
    free = house.budget - sum(one.bytes for one in house.holdings.values())
    forced = next((one for one in house.wishes.values() if one.is_forced), None)
    for one in house.wishes.values():
        is_due = one is forced if forced else one.is_wanted
        if is_due and one.revision not in house.holdings:
            assert one.need > free


@pytest.mark.parametrize("weight", [0, 100])
def test_a_pinned_revision_that_nobody_wants_any_more_leaves_only_without_traffic(weight: int) -> None:
    gone = wish("a", is_wanted=False, is_pinned=True)
    assert bool(choose([gone], [Holding("a", 1)], routes={"a": Traffic(weight)})) == (not weight)
