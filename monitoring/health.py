"""Is the engine alive, and may this process be sent requests?

Reads the engine's last snapshot: a probe never enqueues work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from asgiref.sync import sync_to_async
from django.db import DatabaseError, connection

import inference.client
from inference.protocol.stats import RevisionStats, Stats

PATIENCE_SECONDS = 5.0  # a step is bounded by the token budget, so a long prefill steps as often as anything
PATIENCE_STEPS = 10  # on a machine so slow that single steps take seconds, this many of them
DATABASE_SECONDS = 2.0

why_no_writes: Callable[[], str | None] | None = None  # the console says it, where it serves
sleepers: frozenset[str] = (
    frozenset()
)  # revisions that are not loaded because nobody asked; a request wakes them


def engine_fault(stats: Stats, *, now: float) -> str | None:
    """Why the engine counts as dead or hung at `now` (time.monotonic()); None while it is well."""
    for revision in stats.revisions:
        if not revision.is_alive:
            return f"the engine of {revision.revision} has ended: {revision.error or 'no reason was left'}"
        silence = now - revision.last_step_at if revision.has_work and revision.last_step_at else 0.0
        if silence > _patience(revision):
            return f"the engine of {revision.revision} has work but has not stepped for {silence:.0f} s"
        due_at = revision.prompts.due_at
        if due_at is not None and now - due_at > PATIENCE_SECONDS:
            return f"prompts of {revision.revision} do not move: one is overdue by {now - due_at:.0f} s"
    return None


def prompts_fault(stats: Stats) -> str | None:
    """Why no revision can prepare a prompt; None while one can.

    One model's template must not take the others out of service: what is wrong with it shows at its revision.
    """
    errors = [f"{one.revision}: {one.prompts.error}" for one in stats.revisions if one.prompts.error]
    if not errors or len(errors) < len(stats.revisions):
        return None
    return f"prompts cannot be prepared: {errors[0]}"


def _patience(revision: RevisionStats) -> float:
    return max(PATIENCE_SECONDS, PATIENCE_STEPS * revision.last_step_seconds)


def why_unhealthy() -> str | None:
    """Why this process should be replaced; None while it is well."""
    try:
        stats = inference.client.current().stats()
    except RuntimeError:
        return "no engine is configured in this process"
    return engine_fault(stats, now=time.monotonic())


async def why_not_ready() -> str | None:
    """Why no request should be sent here now; None when all is there that a request needs."""
    fault = why_unhealthy()
    if fault is not None:
        return fault
    engine = inference.client.current()
    if engine.stats().is_draining:
        return "draining"
    if not engine.models() and not sleepers:
        return "no model is loaded yet"
    fault = prompts_fault(engine.stats())
    if fault is not None:
        return fault
    fault = await why_no_database()
    if fault is None and why_no_writes is not None:
        fault = await sync_to_async(why_no_writes, thread_sensitive=False)()
    return fault


async def why_no_database() -> str | None:
    """Ask the database from a thread of its own, so that a probe never queues behind another view's query."""
    try:
        async with asyncio.timeout(DATABASE_SECONDS):
            await sync_to_async(_ask_database, thread_sensitive=False)()
    except (DatabaseError, TimeoutError):
        return "the database does not answer"
    return None


def _ask_database() -> None:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    finally:
        connection.close()
