"""The engine's state in one honest sentence, from a snapshot of its counters."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

import inference.client
from inference.protocol.stats import RevisionStats, Stats
from monitoring import health
from monitoring.health import engine_fault


@dataclass(frozen=True, slots=True)
class EngineState:
    """What the pill in every page's corner says."""

    kind: Literal["ok", "warn", "bad", "idle"]
    text: str
    detail: str = ""


def age(seconds: float) -> str:
    """A time span as people say it: 11 ms, 3 s, 4 min, 2 h."""
    if seconds < 1:
        return _("%(number)d ms") % {"number": max(0, round(seconds * 1000))}
    if seconds < 90:
        return _("%(number)d s") % {"number": round(seconds)}
    if seconds < 5400:
        return _("%(number)d min") % {"number": round(seconds / 60)}
    return _("%(number)d h") % {"number": round(seconds / 3600)}


def current_stats() -> Stats | None:
    """The engine's snapshot; None in a process that has no engine."""
    try:
        return inference.client.current().stats()
    except RuntimeError:
        return None


def prompts_error(revision: str) -> str:
    """Why prompts of a revision cannot be prepared now; "" where they can, or it is not loaded here."""
    stats = current_stats()
    found = stats.revisions if stats is not None else ()
    return next((one.prompts.error for one in found if one.revision == revision), "")


def engine_state(stats: Stats | None, *, now: float | None = None) -> EngineState:
    """The sentence for a snapshot at `now` (time.monotonic())."""
    now = time.monotonic() if now is None else now
    if stats is None:
        return EngineState("warn", _("No engine in this process"))
    fault = engine_fault(stats, now=now)
    if fault is not None:
        return EngineState("bad", _("Engine does not step"), fault)
    if stats.is_draining:
        return EngineState("warn", _("Draining: takes no new requests"))
    for one in stats.revisions:
        if one.prompts.error:
            detail = f"{one.revision}: {one.prompts.error}"
            return EngineState("warn", _("A model cannot prepare prompts"), detail)
    if not stats.revisions and health.sleepers:
        return EngineState("idle", _("Asleep: the next request loads its model"))
    if not stats.revisions:
        return EngineState("warn", _("No model is loaded"))
    steps = [one.last_step_at for one in stats.revisions if one.last_step_at is not None]
    if any(one.has_work for one in stats.revisions):
        return EngineState("ok", stepping(steps, now), load(stats.revisions))
    if not steps:
        return EngineState("idle", _("Engine idle, no step yet"))
    return EngineState("idle", _("Engine idle, last step %(age)s ago") % {"age": age(now - max(steps))})


def stepping(steps: list[float], now: float) -> str:
    if not steps:
        return _("Engine starts its first step")
    return _("Engine stepping, %(age)s ago") % {"age": age(now - max(steps))}


def load(revisions: tuple[RevisionStats, ...]) -> str:
    running = sum(one.num_running for one in revisions)
    waiting = sum(one.num_waiting for one in revisions)
    running_text = ngettext("%(number)d request runs", "%(number)d requests run", running)
    waiting_text = ngettext("%(number)d waits", "%(number)d wait", waiting)
    return f"{running_text % {'number': running}}, {waiting_text % {'number': waiting}}"
