"""The recorder keeps an hour finely and a day coarsely, in bounded memory, and tells rates from it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Metric

from inference.protocol.events import Timings, Usage
from monitoring.collect import recorded
from monitoring.metrics import observe_request
from monitoring.panels.listing import SAMPLE_NAMES
from monitoring.panels.recorder import DAY_SECONDS, HOUR_SECONDS, PERIOD_SECONDS, Recorder
from monitoring.panels.ring import Ring
from tests.counting import counted_calls

GENERATED = "pilothouse_engine_generated_tokens_total"


class House:
    """A counter by revision and a clock, turned by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.generated: dict[str, float] = {}
        self.recorder = Recorder(self.collect, lambda: self.now)

    def collect(self) -> Iterator[Metric]:
        registry = CollectorRegistry()
        counter = Counter("pilothouse_engine_generated_tokens", "-", ("revision",), registry=registry)
        for revision, value in self.generated.items():
            counter.labels(revision).inc(value)
        return iter(list(registry.collect()))

    def pass_time(self, seconds: float, **rates: float) -> None:
        for _ in range(int(seconds / PERIOD_SECONDS)):
            self.now += PERIOD_SECONDS
            for name, rate in rates.items():
                self.generated[name] = self.generated.get(name, 0) + rate * PERIOD_SECONDS
            self.recorder.read()


def test_now_is_the_mean_of_the_last_seconds_over_all_revisions() -> None:
    house = House()
    house.pass_time(60, a=1000, b=7)
    house.pass_time(10, a=50, b=10)
    assert house.recorder.rate_now() == 60


def test_now_is_unknown_before_two_readings_and_after_a_silence() -> None:
    house = House()
    assert house.recorder.rate_now() is None
    house.pass_time(5, a=10)
    assert house.recorder.rate_now() is None
    house.pass_time(5, a=10)
    assert house.recorder.rate_now() == 10
    house.now += 60
    assert house.recorder.rate_now() is None


def test_a_revision_that_is_loaded_anew_has_no_negative_rate_and_one_that_left_has_none() -> None:
    house = House()
    house.pass_time(10, a=100)
    house.generated["a"] = 0
    house.pass_time(5)
    assert house.recorder.rate_now() == 50  # 500 tokens and a fall, in ten seconds
    house.generated.clear()
    house.pass_time(10)
    assert house.recorder.rate_now() is None


def test_an_hour_is_fine_and_a_day_is_coarse() -> None:
    house = House()
    house.pass_time(2 * HOUR_SECONDS, a=1)
    (fine,) = house.recorder.span(HOUR_SECONDS).tracks(GENERATED)
    (coarse,) = house.recorder.span(DAY_SECONDS).tracks(GENERATED)
    assert {b - a for a, b in zip(fine.times, fine.times[1:], strict=False)} == {PERIOD_SECONDS}
    assert {b - a for a, b in zip(coarse.times, coarse.times[1:], strict=False)} == {60}
    assert fine.times[-1] - fine.times[0] == pytest.approx(HOUR_SECONDS, abs=PERIOD_SECONDS)
    assert coarse.times[-1] - coarse.times[0] == pytest.approx(2 * HOUR_SECONDS, abs=60)


def test_a_young_house_draws_a_day_from_its_fine_readings() -> None:
    house = House()
    house.pass_time(600, a=1)
    assert house.recorder.span(DAY_SECONDS).period == PERIOD_SECONDS


def test_memory_is_bounded_in_readings_and_in_series() -> None:
    ring = Ring(capacity=3, max_series=2)
    for at in range(1, 6):
        ring.append(at, {("a", ()): at, ("b", ()): at, ("c", ()): at})
    assert ring.num_series == 2
    assert ring.num_left_out == 1
    (track,) = ring.tracks("a")
    assert list(track.times) == list(track.values) == [3, 4, 5]
    assert list(ring.tracks("c")) == []


def test_a_series_that_left_makes_room_when_its_last_sample_is_overwritten() -> None:
    ring = Ring(capacity=3, max_series=1)
    ring.append(1, {("a", ()): 1})
    for at in range(2, 9):
        ring.append(at, {("b", ()): at})
    assert [key for key in "ab" if list(ring.tracks(key))] == ["b"]


def test_a_reading_without_a_series_ends_it_there() -> None:
    ring = Ring(capacity=9, max_series=9)
    ring.append(1, {("a", ()): 1, ("b", ()): 1})
    ring.append(2, {("b", ()): 2})
    (gone,), (there,) = ring.tracks("a"), ring.tracks("b")
    assert (list(gone.times), gone.gone_at) == ([1], 2)
    assert there.gone_at == math.inf


def test_a_clock_that_was_set_back_adds_nothing_out_of_order() -> None:
    ring = Ring(capacity=9, max_series=9)
    for at in (10, 5, 11):
        ring.append(at, {("a", ()): at})
    (track,) = ring.tracks("a")
    assert list(track.times) == [10, 11]


def test_only_what_panels_ask_for_is_kept() -> None:
    registry = CollectorRegistry()
    Gauge("nobody_asks", "-", registry=registry).set(1)
    Gauge("pilothouse_websocket_connections", "-", registry=registry).set(1)
    recorder = Recorder(registry.collect)
    recorder.read()
    assert list(recorder.span(60).tracks("nobody_asks")) == []
    assert len(list(recorder.span(60).tracks("pilothouse_websocket_connections"))) == 1


def test_a_reading_costs_little() -> None:
    """It grows with the samples that it keeps: other tests of this process have left series of their own."""
    timings = Timings(first_token_seconds=0.1, total_seconds=1.0, inter_token_seconds=(0.1, 0.2))
    for revision in ("cost-1", "cost-2"):
        observe_request(
            model="cost", revision=revision, endpoint="chat.completions", transport="sse", outcome="finished",
            finish_reason="stop", error_code="", usage=Usage(1, 0, 3), timings=timings,
        )  # fmt: skip
    recorder = Recorder(lambda: recorded(SAMPLE_NAMES))
    recorder.read()
    num_samples = sum(len(family.samples) for family in recorded(SAMPLE_NAMES))

    with counted_calls() as cost:
        recorder.read()
    assert cost.calls < 1_000 + 40 * num_samples  # 26 a sample
