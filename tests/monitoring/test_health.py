"""Health follows the step heartbeat: a hung or dead engine shows within seconds, a busy one never."""

from __future__ import annotations

import threading
import time

import pytest
from django.db import DatabaseError

from inference.protocol.stats import PromptStats, RevisionStats, Stats
from monitoring import health
from monitoring.health import engine_fault, why_not_ready, why_unhealthy
from tests.monitoring.conftest import Configure

NOW = 1000.0


def fault(**snapshot: object) -> str | None:
    return engine_fault(Stats(revisions=(RevisionStats("r1", **snapshot),)), now=NOW)  # type: ignore[arg-type]


def test_idle_engine_is_healthy_however_long_ago_it_stepped() -> None:
    assert fault(has_work=False, last_step_at=NOW - 86400) is None


def test_work_without_a_step_for_more_than_five_seconds_is_a_fault() -> None:
    assert fault(has_work=True, last_step_at=NOW - 4.9) is None
    assert "has not stepped for 5 s" in str(fault(has_work=True, last_step_at=NOW - 5.1))


def test_long_prefill_with_a_full_queue_is_healthy_while_it_steps() -> None:
    assert (
        fault(has_work=True, num_waiting=1024, num_running=256, last_step_at=NOW - 2, last_step_seconds=2.5)
        is None
    )


def test_machine_whose_steps_take_seconds_gets_more_patience() -> None:
    assert fault(has_work=True, last_step_at=NOW - 8, last_step_seconds=1.0) is None
    assert fault(has_work=True, last_step_at=NOW - 11, last_step_seconds=1.0) is not None


def test_dead_engine_is_a_fault_at_once_with_its_reason() -> None:
    assert "out of memory" in str(fault(is_alive=False, error="out of memory"))


def test_one_hung_revision_among_healthy_ones_is_a_fault() -> None:
    well = RevisionStats("well", has_work=True, last_step_at=NOW)
    hung = RevisionStats("hung", has_work=True, last_step_at=NOW - 60)
    assert "hung" in str(engine_fault(Stats(revisions=(well, hung)), now=NOW))


def test_a_prompt_that_nobody_ends_is_a_fault() -> None:
    assert fault(prompts=PromptStats(num_waiting=3, oldest_since=NOW - 60, due_at=NOW - 4)) is None
    stuck = PromptStats(num_waiting=3, oldest_since=NOW - 60, due_at=NOW - 6)
    assert "prompts of r1 do not move: one is overdue by 6 s" in str(fault(prompts=stuck))


def test_process_without_an_engine_is_unhealthy(no_engine: None) -> None:
    assert why_unhealthy() == "no engine is configured in this process"


@pytest.mark.django_db(transaction=True)
async def test_ready_when_a_model_is_loaded_and_the_database_answers(engine_tells: Configure) -> None:
    engine_tells(RevisionStats("r1"))
    assert await why_not_ready() is None


async def test_not_ready_while_draining(engine_tells: Configure) -> None:
    engine_tells(RevisionStats("r1"), is_draining=True)
    assert await why_not_ready() == "draining"


async def test_not_ready_before_a_model_is_loaded(engine_tells: Configure) -> None:
    engine_tells().cards = ()
    assert await why_not_ready() == "no model is loaded yet"


async def test_not_ready_when_the_engine_hangs(engine_tells: Configure) -> None:
    engine_tells(RevisionStats("r1", has_work=True, last_step_at=time.monotonic() - 60))
    assert "has not stepped" in str(await why_not_ready())


@pytest.mark.django_db(transaction=True)
async def test_not_ready_when_no_model_can_prepare_prompts(engine_tells: Configure) -> None:
    broken = RevisionStats("r1", prompts=PromptStats(error="its chat template took longer than 5 s"))
    engine_tells(broken, RevisionStats("r2"))
    assert await why_not_ready() is None, "one model takes the others out of service"
    engine_tells(broken)
    assert await why_not_ready() == f"prompts cannot be prepared: r1: {broken.prompts.error}"
    assert why_unhealthy() is None, "nothing is mended by another process"


async def test_not_ready_when_the_database_fails(
    engine_tells: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise DatabaseError("gone")

    monkeypatch.setattr(health, "_ask_database", refuse)
    engine_tells(RevisionStats("r1"))
    assert await why_not_ready() == "the database does not answer"


async def test_not_ready_when_the_database_hangs(
    engine_tells: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs_no_more = threading.Event()
    monkeypatch.setattr(health, "DATABASE_SECONDS", 0.05)
    monkeypatch.setattr(health, "_ask_database", lambda: hangs_no_more.wait(60))
    engine_tells(RevisionStats("r1"))
    assert await why_not_ready() == "the database does not answer"
    hangs_no_more.set()
