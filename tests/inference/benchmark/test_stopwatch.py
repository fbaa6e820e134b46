"""Under overlap the host's launching and waiting are told apart; the device's time is read off its marks."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from inference.benchmark.stopwatch import BEGIN, CHOSEN, COMPUTED, Breakdown, DeviceClock
from inference.protocol.requests import Sampling
from inference.scheduling.step_input import StepInput
from inference.scheduling.step_loop import AsyncStepRunner
from tests.inference.scheduling.fake_model import FakeLauncher, make_bench

LAUNCH_SECONDS, WAIT_SECONDS = 0.005, 0.2


class SlowLauncher(FakeLauncher):
    """Takes a while to launch, and a longer while until the tokens are there."""

    def launch(self, step: StepInput) -> Any:
        time.sleep(LAUNCH_SECONDS)
        launched = super().launch(step)

        def read() -> list[int | None]:
            time.sleep(WAIT_SECONDS)
            return launched.read()

        return SimpleNamespace(read=read)


def test_launching_and_waiting_are_told_apart_and_every_step_is_counted_once() -> None:
    bench = make_bench(overlaps=True)
    runner = SimpleNamespace(run=bench.runner.run, last_tokens=bench.runner.last_tokens)
    sampler: Any = SimpleNamespace(sample=bench.sampler.sample)
    step_runner = bench.engine.step_runner
    assert isinstance(step_runner, AsyncStepRunner)
    launcher = SlowLauncher(runner, sampler)  # type: ignore[arg-type]
    step_runner.launcher = launcher
    steps: list[StepInput] = []
    breakdown = Breakdown(bench.engine, on_step=steps.append)
    bench.submit("a", [1, 2, 3], sampling=Sampling(max_tokens=6, ignore_eos=True))
    bench.run()
    report = breakdown.report()
    assert report["steps"] == len(steps) == launcher.num_launched
    host = report["host_ms_per_step"]
    assert host["wait"] >= 1000 * WAIT_SECONDS
    assert 1000 * LAUNCH_SECONDS <= host["launch"] < host["wait"]
    assert host["run"] == host["sample"] == 0
    assert "device_ms_per_step" not in report
    breakdown.reset()
    assert breakdown.report()["steps"] == 0


class ManualEvent:
    """Happens when the test says."""

    now = 0.0

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing
        self.at = 0.0

    def record(self) -> None:
        self.at = ManualEvent.now

    def elapsed_time(self, other: ManualEvent) -> float:
        return other.at - self.at


def test_the_device_computes_between_a_steps_marks_and_idles_between_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "Event", ManualEvent)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    clock = DeviceClock()

    def marked(*marks: tuple[str, float]) -> dict[str, float]:
        for name, at in marks:
            ManualEvent.now = at
            clock.mark(name)
        return {stage: round(1000 * seconds, 6) for stage, seconds in clock.take().items()}

    step, next_step = [(BEGIN, 0), (COMPUTED, 10), (CHOSEN, 12)], [(BEGIN, 15), (COMPUTED, 26), (CHOSEN, 27)]
    assert marked(*step, *next_step) == {"forward": 21, "sample": 3, "idle": 3}
    assert marked(*step, (BEGIN, 12), *next_step) == {"forward": 21, "sample": 3, "idle": 0}  # one raised
    assert marked((BEGIN, 0), (COMPUTED, 5), *next_step) == {"forward": 16, "sample": 1, "idle": 10}
