"""The pill's sentence is what the counters say, no better and no worse."""

from __future__ import annotations

import pytest

from console.dashboard.engine_state import EngineState, age, engine_state
from inference.protocol.stats import RevisionStats, Stats

NOW = 1000.0


def state(*revisions: RevisionStats, is_draining: bool = False) -> EngineState:
    return engine_state(Stats(revisions, is_draining=is_draining), now=NOW)


def test_a_working_engine_tells_how_long_ago_it_stepped() -> None:
    busy = RevisionStats("a", num_running=2, num_waiting=1, has_work=True, last_step_at=NOW - 0.011)
    idle = RevisionStats("b", last_step_at=NOW - 50)
    assert state(busy, idle) == EngineState("ok", "Engine stepping, 11 ms ago", "2 requests run, 1 waits")


def test_an_idle_engine_is_not_called_healthy_but_idle() -> None:
    assert state(RevisionStats("a", last_step_at=NOW - 200)) == EngineState(
        "idle", "Engine idle, last step 3 min ago"
    )
    assert state(RevisionStats("a")).text == "Engine idle, no step yet"


def test_an_engine_with_work_that_does_not_step_is_broken() -> None:
    stuck = state(RevisionStats("a", has_work=True, last_step_at=NOW - 60, last_step_seconds=0.1))
    assert stuck.kind == "bad"
    assert "60 s" in stuck.detail


def test_a_dead_engine_says_why() -> None:
    dead = state(RevisionStats("a", is_alive=False, error="out of memory"))
    assert (dead.kind, "out of memory" in dead.detail) == ("bad", True)


def test_draining_no_model_and_no_engine_are_said() -> None:
    assert state(RevisionStats("a"), is_draining=True).text == "Draining: takes no new requests"
    assert state().text == "No model is loaded"
    assert engine_state(None).text == "No engine in this process"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 ms"), (0.0114, "11 ms"), (1.4, "1 s"), (89, "89 s"), (200, "3 min"), (7300, "2 h")],
)
def test_ages_are_written_as_people_say_them(seconds: float, text: str) -> None:
    assert age(seconds) == text
