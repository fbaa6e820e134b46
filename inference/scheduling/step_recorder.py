"""What is measured and noted around steps: counters, heartbeat, what prefill costs, requests' phases."""

from __future__ import annotations

import math
from collections.abc import Mapping

from inference.protocol.events import WaitReason
from inference.scheduling.phase_timeline import Phase
from inference.scheduling.prefill_budget import PrefillBudget
from inference.scheduling.request_state import RequestState
from inference.scheduling.scheduler import ScheduleResult
from inference.scheduling.step_executor import StepResult


class StepRecorder:
    """One engine's books of its steps. It is told the time, and decides nothing."""

    def __init__(self, prefill_budget: PrefillBudget) -> None:
        self._prefill_budget = prefill_budget
        self.num_prompt_tokens = 0
        self.num_generated_tokens = 0
        self.num_steps = 0
        self.last_step_at: float | None = None
        self.last_step_seconds = 0.0
        self.waits_for: WaitReason | None = None  # why the last step left somebody in the queue
        self._scheduled_at = -math.inf  # when the last step began
        self._measured_from = -math.inf  # since when what the next result tells of has computed

    def note_work(self, now: float) -> None:
        """There is something to compute again: the heartbeat counts from here."""
        self.last_step_at = now

    def note_schedule(self, result: ScheduleResult, requests: Mapping[str, RequestState], now: float) -> None:
        """Who was admitted or preempted, and why others were not."""
        for sequence in result.admitted:
            timeline = requests[sequence.id].timeline
            was_there = timeline.phase_started_at <= self._scheduled_at
            timeline.admit(now, self.waits_for if was_there else None)
            if sequence.num_preemptions == 0:
                self.num_prompt_tokens += sequence.num_prompt_tokens
        for sequence in result.preempted:
            timeline = requests[sequence.id].timeline
            if timeline.phase is not Phase.GRANT:
                timeline.enter(Phase.PREEMPTED, now)
        self._scheduled_at = now
        self.waits_for = result.waits_for

    def note_start(self, *, is_idle: bool) -> None:
        """The step runs what was scheduled; `is_idle`: nothing was under way before it."""
        if is_idle:
            self._measured_from = self._scheduled_at

    def note_result(self, result: StepResult, now: float) -> None:
        """The step ends; what it tells of has been computed since the result before, or since it began."""
        if result.done:
            self._prefill_budget.observe([chunk for chunk, _ in result.done], now - self._measured_from)
            self._measured_from = now
        self.num_steps += 1
        self.last_step_at, self.last_step_seconds = now, now - self._scheduled_at

    def note_token(self, state: RequestState, now: float, *, batch: int) -> None:
        """A token was accepted, in a step that ran `batch` sequences."""
        state.timeline.add_token(now, batch=batch)
        self.num_generated_tokens += 1
