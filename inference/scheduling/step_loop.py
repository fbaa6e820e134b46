"""How plans are run: one after the other, or each launched before the tokens of the one before are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from inference.scheduling.interfaces import Runner, Sampled, Sampler
from inference.scheduling.sequence import Status
from inference.scheduling.step_executor import DeviceLost, StepResult, execute, is_device_lost
from inference.scheduling.step_input import StepInput
from inference.scheduling.step_plan import ScheduledChunk, StepPlan


class StepRunner(Protocol):
    """Runs plans."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way that a later `execute` would tell of."""

    def execute(self, plan: StepPlan) -> StepResult:
        """Run and sample; what became of this plan or of one before. What was not begun is planned anew."""


class SyncStepRunner:
    """Each plan's tokens are read before the next plan is made."""

    is_idle = True

    def __init__(self, runner: Runner, sampler: Sampler) -> None:
        self._runner = runner
        self._sampler = sampler

    def execute(self, plan: StepPlan) -> StepResult:
        return execute(self._runner, self._sampler, plan)


class Launched(Protocol):
    """A step that the device computes."""

    def read(self) -> list[int | None]:
        """Wait for the tokens of the step's sampling chunks; None where the logits were not finite."""


class Launcher(Protocol):
    """Starts a step without waiting for it. Tokens that are PENDING are on the device already."""

    def takes(self, step: StepInput) -> bool:
        """Whether the step can be launched without knowing on the host what is PENDING."""

    def launch(self, step: StepInput) -> Launched:
        """Start a step that it takes."""


@dataclass(frozen=True, slots=True)
class InFlightStep:
    """A launched plan, as things stood then: chunks, whether each samples, how often it was preempted."""

    launched: Launched
    chunks: list[tuple[ScheduledChunk, bool, int]]


class AsyncStepRunner:
    """A plan is launched while the one before it computes: the host's work costs the device no time.

    Until they are read, tokens are PENDING: counted, but unknown. A sequence that turns out to have ended
    is computed once for nothing. Plans that need known tokens on the host wait, speculative ones too, and
    what raises at launch is planned again and run synchronously, so that its culprit is found.
    """

    def __init__(self, runner: Runner, sampler: Sampler, launcher: Launcher) -> None:
        self._sync = SyncStepRunner(runner, sampler)
        self.launcher = launcher  # the benchmark measures it
        self._in_flight: InFlightStep | None = None
        self._is_suspect = False  # the last launch raised

    @property
    def is_idle(self) -> bool:
        return self._in_flight is None

    def execute(self, plan: StepPlan) -> StepResult:
        before, self._in_flight = self._in_flight, None
        if plan.chunks and not (plan.is_speculative or self._is_suspect) and self.launcher.takes(plan.input):
            self._in_flight = self._launch(plan)
        elif plan.chunks and before is None:
            self._is_suspect = False
            return self._sync.execute(plan)
        return StepResult() if before is None else read(before)

    def _launch(self, plan: StepPlan) -> InFlightStep | None:
        chunks = [
            (chunk, is_sampled, chunk.sequence.num_preemptions)
            for chunk, is_sampled in zip(plan.chunks, plan.input.samples, strict=True)
        ]
        try:
            launched = self.launcher.launch(plan.input)
        except Exception as error:
            if is_device_lost(error):
                raise DeviceLost(type(error).__name__) from error
            self._is_suspect = True
            return None
        for chunk, is_sampled, _ in chunks:
            chunk.sequence.num_computed_tokens = chunk.end
            if is_sampled:
                chunk.sequence.add_pending()
        return InFlightStep(launched, chunks)


def read(in_flight: InFlightStep) -> StepResult:
    """What became of the chunks whose sequences have not ended meanwhile."""
    try:
        tokens = iter(in_flight.launched.read())
    except Exception as error:
        raise DeviceLost(type(error).__name__) from error
    result = StepResult()
    for chunk, is_sampled, num_preemptions in in_flight.chunks:
        sampled = Sampled(next(tokens)) if is_sampled else None
        if chunk.sequence.status is Status.FINISHED:
            continue
        result.done.append((chunk, sampled))
        if chunk.sequence.num_preemptions != num_preemptions:
            result.preempted.add(chunk.sequence)
    return result
