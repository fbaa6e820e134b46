"""Rates come from counters and clocks, and say nothing where nothing was measured."""

from __future__ import annotations

from inference.protocol import RevisionStats, Stats
from monitoring.series import NOW_SECONDS, PERIOD_SECONDS, Recorder


class Engine:
    """Counters and a clock that a test turns by hand."""

    def __init__(self) -> None:
        self.now = 10_000.0
        self.generated = {"a": 0}
        self.is_there = True
        self.recorder = Recorder(self.stats, lambda: self.now)

    def stats(self) -> Stats:
        if not self.is_there:
            raise RuntimeError("no engine")
        return Stats(tuple(RevisionStats(name, num_generated_tokens=n) for name, n in self.generated.items()))

    def pass_time(self, seconds: float, **rates: float) -> None:
        for _ in range(int(seconds / PERIOD_SECONDS)):
            self.now += PERIOD_SECONDS
            for name, rate in rates.items():
                self.generated[name] = self.generated.get(name, 0) + int(rate * PERIOD_SECONDS)
            self.recorder.read()


def test_now_is_the_mean_of_the_last_seconds_only() -> None:
    engine = Engine()
    engine.pass_time(60, a=1000)
    engine.pass_time(NOW_SECONDS, a=50)
    assert engine.recorder.rate_now() == 50


def test_now_is_unknown_before_two_readings_and_after_a_silence() -> None:
    engine = Engine()
    assert engine.recorder.rate_now() is None
    engine.recorder.read()
    assert engine.recorder.rate_now() is None
    engine.pass_time(4, a=10)
    assert engine.recorder.rate_now() == 10
    engine.now += 60
    assert engine.recorder.rate_now() is None


def test_a_revision_that_is_loaded_anew_has_no_negative_rate() -> None:
    engine = Engine()
    engine.pass_time(10, a=100)
    engine.generated["a"] = 0
    engine.pass_time(2)
    assert engine.recorder.rate_now() is not None
    assert min(engine.recorder.last_hour(step_seconds=2).rates["a"]) >= 0


def test_the_hour_is_told_by_revision_on_one_axis_in_steps() -> None:
    engine = Engine()
    engine.pass_time(120, a=100)
    engine.pass_time(120, a=100, b=40)
    hour = engine.recorder.last_hour(step_seconds=30)
    assert set(hour.rates) == {"a", "b"}
    assert all(len(rates) == len(hour.times) for rates in hour.rates.values())
    assert {later - earlier for earlier, later in zip(hour.times, hour.times[1:], strict=False)} == {30}
    assert hour.rates["a"] == [100.0] * len(hour.times)
    assert (hour.rates["b"][0], hour.rates["b"][-1]) == (0.0, 40.0)


def test_an_hour_is_kept_and_no_more() -> None:
    engine = Engine()
    engine.pass_time(2 * 3600, a=1)
    times = engine.recorder.last_hour().times
    assert times[-1] - times[0] <= 3600


def test_without_an_engine_there_is_nothing_to_tell() -> None:
    engine = Engine()
    engine.is_there = False
    engine.pass_time(10)
    assert engine.recorder.last_hour().times == []
