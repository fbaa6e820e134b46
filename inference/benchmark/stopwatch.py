"""A step's time by stage: seconds of the host inside an engine's parts, and of the device between events.

Laid over an engine from outside, so an engine that is not measured pays nothing.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from itertools import pairwise
from typing import Any

import torch

from inference.scheduling.engine import Engine
from inference.scheduling.step_input import StepInput

HOST_STAGES = ("schedule", "launch", "run", "sample", "wait", "post")
BEGIN, COMPUTED, CHOSEN = "begin", "computed", "chosen"  # a step's marks on the device
BETWEEN = {
    (BEGIN, COMPUTED): "forward",
    (COMPUTED, CHOSEN): "sample",
    (CHOSEN, BEGIN): "idle",
    (COMPUTED, BEGIN): "idle",  # a step that chose nothing
}


class Stopwatch:
    """Adds up the seconds spent inside chosen methods of an engine's parts."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def watch(
        self,
        stage: str,
        owner: object,
        method: str,
        *,
        before: Callable[..., None] | None = None,
        after: Callable[[Any], Any] | None = None,
    ) -> None:
        """Time every call of `owner.method` under the name `stage`.

        `before` is given the arguments; what `after` makes of the result is returned in its place.
        """
        untimed = getattr(owner, method)

        @wraps(untimed)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if before is not None:
                before(*args)
            started = time.perf_counter()
            try:
                result = untimed(*args, **kwargs)
            finally:
                self.seconds[stage] += time.perf_counter() - started
            return result if after is None else after(result)

        setattr(owner, method, timed)


class DeviceClock:
    """Marks on the device's stream. Between a step's first and last mark it computes, or waits for the host
    to launch the rest of the step; between two steps it idles.
    """

    def __init__(self) -> None:
        self._spare: list[torch.cuda.Event] = []
        self._marks: list[tuple[str, torch.cuda.Event]] = []

    def mark(self, name: str) -> None:
        """Note that the device has come this far, once it has."""
        event = self._spare.pop() if self._spare else torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append((name, event))

    def take(self) -> dict[str, float]:
        """Seconds by stage since the last call: `forward`, `sample`, and `idle` between steps."""
        torch.cuda.synchronize()
        seconds = {"forward": 0.0, "sample": 0.0, "idle": 0.0}
        for (name, event), (next_name, next_event) in pairwise(self._marks):
            if stage := BETWEEN.get((name, next_name)):  # a step that raised leaves a mark without its end
                seconds[stage] += max(0.0, event.elapsed_time(next_event)) / 1000
        self._spare += [event for _, event in self._marks]
        self._marks = []
        return seconds


class TimedLaunch:
    """A launched step whose reading is timed: that is the host's wait for the device."""

    def __init__(self, launched: Any, stopwatch: Stopwatch) -> None:
        self._launched = launched
        stopwatch.watch("wait", self, "read")

    def read(self) -> Any:
        return self._launched.read()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._launched, name)


class Breakdown:
    """Watches an engine's steps from now on. `on_step` is given every step that is run."""

    def __init__(self, engine: Engine, on_step: Callable[[StepInput], None] = lambda _: None) -> None:
        self.num_steps = 0
        self._on_step = on_step
        self._stopwatch = Stopwatch()
        self._clock = DeviceClock() if engine.card.device.startswith("cuda") else None
        watch = self._stopwatch.watch
        watch("step", engine, "step")
        watch("schedule", engine.scheduler, "schedule")
        watch("step_runner", engine.step_runner, "execute")
        watch("run", engine.runner, "run", before=self._begin)
        watch("sample", engine.sampler, "sample", after=self._end)
        launcher = getattr(engine.step_runner, "launcher", None)
        if launcher is not None:
            watch("launching", launcher, "launch", before=self._begin, after=self._launched)
        if self._clock is not None:
            start = "start" if hasattr(engine.runner, "start") else "run"
            watch("starting", engine.runner, start, after=self._computed)

    def reset(self) -> None:
        """Begin anew."""
        self.num_steps = 0
        self._stopwatch.seconds.clear()
        if self._clock is not None:
            self._clock.take()

    def report(self) -> dict[str, Any]:
        """Milliseconds of a step by stage, on the host and on the device.

        Host: `schedule`, `launch` (all of a step before the device has it), `run` and `sample` (where the
        host waits for both), `wait` (for a launched step's tokens) and `post` (texts, events, ends).
        """
        spent = self._stopwatch.seconds
        host = {stage: spent[stage] for stage in HOST_STAGES}
        host["launch"] = max(0.0, spent["step_runner"] - spent["run"] - spent["sample"] - spent["wait"])
        host["post"] = spent["step"] - spent["schedule"] - spent["step_runner"]
        report: dict[str, Any] = {"steps": self.num_steps, "host_ms_per_step": self._each(host)}
        if self._clock is not None:
            device = self._clock.take()
            total = sum(device.values())
            report["device_ms_per_step"] = self._each(device)
            report["device_busy_percent"] = round(100 * (1 - device["idle"] / total), 1) if total else 0.0
        return report

    def _each(self, seconds: dict[str, float]) -> dict[str, float]:
        return {stage: round(1000 * spent / max(1, self.num_steps), 3) for stage, spent in seconds.items()}

    def _begin(self, step: StepInput) -> None:
        self.num_steps += 1
        self._on_step(step)
        if self._clock is not None:
            self._clock.mark(BEGIN)

    def _computed(self, result: Any) -> Any:
        if self._clock is not None:
            self._clock.mark(COMPUTED)
        return result

    def _end(self, result: Any) -> Any:
        if self._clock is not None:
            self._clock.mark(CHOSEN)
        return result

    def _launched(self, launched: Any) -> TimedLaunch:
        return TimedLaunch(self._end(launched), self._stopwatch)
