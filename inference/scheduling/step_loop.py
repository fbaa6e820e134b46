"""How plans are run: one after the other, or each launched before the tokens of the one before are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from inference.scheduling.interfaces import Runner, Sampled, Sampler
from inference.scheduling.sequence import Plan, Row, Status
from inference.scheduling.step_executor import DeviceLost, Outcome, is_device_lost, run_step


class Stepper(Protocol):
    """Runs plans."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way that a later `step` would tell of."""

    def step(self, plan: Plan) -> Outcome:
        """Run a plan; what became of it, or of an earlier one. One that was not begun is planned anew."""


class Synchronous:
    """Each plan's tokens are read before the next plan is made."""

    is_idle = True

    def __init__(self, runner: Runner, sampler: Sampler) -> None:
        self._runner = runner
        self._sampler = sampler

    def step(self, plan: Plan) -> Outcome:
        return run_step(self._runner, self._sampler, plan)


class Launched(Protocol):
    """A step that the device computes."""

    def read(self) -> list[int | None]:
        """Wait for the tokens of the plan's sampling rows; None where the logits were not finite."""


class Launcher(Protocol):
    """Starts a step without waiting for it. Tokens that are PENDING are on the device already."""

    def takes(self, plan: Plan) -> bool:
        """Whether the plan can be launched without knowing on the host what is PENDING."""

    def launch(self, plan: Plan) -> Launched:
        """Start a plan that it takes."""


@dataclass(frozen=True, slots=True)
class UnderWay:
    """A launched plan, as things stood then: rows, whether each samples, how often it had been preempted."""

    launched: Launched
    rows: list[tuple[Row, bool, int]]


class Overlapped:
    """A plan is launched while the one before it computes: the host's work costs the device no time.

    Until they are read, tokens are PENDING: counted, but unknown. A sequence that turns out to have ended
    is computed once for nothing. Plans that need known tokens on the host wait, those with guesses too, and
    what raises at launch is planned again and run synchronously, so that its culprit is found.
    """

    def __init__(self, runner: Runner, sampler: Sampler, launcher: Launcher) -> None:
        self._synchronous = Synchronous(runner, sampler)
        self.launcher = launcher  # the benchmark measures it
        self._under_way: UnderWay | None = None
        self._is_suspect = False  # the last launch raised

    @property
    def is_idle(self) -> bool:
        return self._under_way is None

    def step(self, plan: Plan) -> Outcome:
        before, self._under_way = self._under_way, None
        if plan.rows and not (plan.guesses or self._is_suspect) and self.launcher.takes(plan):
            self._under_way = self._launch(plan)
        elif plan.rows and before is None:
            self._is_suspect = False
            return self._synchronous.step(plan)
        return Outcome() if before is None else read(before)

    def _launch(self, plan: Plan) -> UnderWay | None:
        rows = [(row, row.samples, row.sequence.num_preemptions) for row in plan.rows]
        try:
            launched = self.launcher.launch(plan)
        except Exception as error:
            if is_device_lost(error):
                raise DeviceLost(type(error).__name__) from error
            self._is_suspect = True
            return None
        for row, samples, _ in rows:
            row.sequence.num_computed_tokens = row.end
            if samples:
                row.sequence.add_pending()
        return UnderWay(launched, rows)


def read(under_way: UnderWay) -> Outcome:
    """What became of the rows whose sequences have not ended meanwhile."""
    try:
        tokens = iter(under_way.launched.read())
    except Exception as error:
        raise DeviceLost(type(error).__name__) from error
    outcome = Outcome()
    for row, samples, num_preemptions in under_way.rows:
        sampled = Sampled(next(tokens)) if samples else None
        if row.sequence.status is Status.FINISHED:
            continue
        outcome.done.append((row, sampled))
        if row.sequence.num_preemptions != num_preemptions:
            outcome.preempted.add(row.sequence)
    return outcome
