"""Long prompts that arrive while others decode: what they do to the gaps between the others' tokens."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

from inference.benchmark.measure import Meter, percentile, percentiles_ms, request_for
from inference.benchmark.workloads import Item, random_ids
from inference.protocol.events import Event, Finish
from inference.protocol.requests import Owner
from inference.scheduling.engine import Engine

WANTED_RATIO = 3.0  # 99th percentile of the steady streams' gaps, over their median


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A closed loop: when a stream ends, the next request arrives. Every `long_every`-th has a long prompt.

    Lengths of outputs differ, so arrivals are spread; the first streams begin as if in mid-life.
    """

    num_streams: int = 64
    num_arrivals: int = 160  # after the first streams
    long_every: int = 20
    num_prompt_tokens: int = 512
    num_long_tokens: int = 16_384
    least_output: int = 128
    most_output: int = 512
    seed: int = 5

    def items(self, vocab_size: int) -> list[Item]:
        """The first streams, then the arrivals in order."""
        source = random.Random(self.seed)  # noqa: S311 - no secret
        items = []
        for index in range(self.num_streams + self.num_arrivals):
            is_first = index < self.num_streams
            num_prompt = self.num_long_tokens if self.is_long(index) else self.num_prompt_tokens
            least = 1 if is_first else self.least_output
            ids = random_ids(source, num_prompt, vocab_size)
            items.append(Item(ids, source.randint(least, self.most_output)))
        return items

    def is_long(self, index: int) -> bool:
        """Whether this one of `items` is long. None of the first streams is."""
        arrival = index - self.num_streams
        return arrival >= 0 and arrival % self.long_every == self.long_every // 2


ARRIVALS: dict[str, Arrivals] = {"long64": Arrivals()}


class ClosedLoop:
    """Runs arrivals through an engine and keeps when each stream's tokens came."""

    def __init__(self, arrivals: Arrivals, engine: Engine) -> None:
        self._arrivals = arrivals
        self._engine = engine
        self._items = arrivals.items(engine.card.vocab_size)
        self._finishes: dict[int, Finish] = {}
        self._last_arrival_at = 0.0

    def run(self, owner: Owner) -> list[Finish]:
        """From the first streams to the end of the last arrival."""
        self._finishes = {}
        num_sent = 0
        while len(self._finishes) < len(self._items):
            due = min(len(self._items), self._arrivals.num_streams + len(self._finishes))
            for index in range(num_sent, due):
                request = request_for(self._engine, f"arrival-{index}", self._items[index], owner)
                self._engine.submit(request, partial(self._note, index))
                self._last_arrival_at = self._engine.clock()
            num_sent = due
            self._engine.step()
        return [self._finishes[index] for index in range(len(self._items))]

    def report(self) -> dict[str, Any]:
        """Gaps of the ordinary streams while it was steady: all first tokens there, arrivals to come."""
        first = range(self._arrivals.num_streams)
        begin = max(token_times(self._finishes[index])[0] for index in first)
        gaps: list[float] = []
        waits: list[float] = []
        for index, finish in self._finishes.items():
            if self._arrivals.is_long(index):
                waits.append(finish.timings.first_token_seconds or 0.0)
                continue
            ends = token_times(finish)[1:]
            steady = zip(ends, finish.timings.inter_token_seconds, strict=True)
            gaps += [gap for end, gap in steady if begin < end <= self._last_arrival_at]
        if not gaps:
            raise RuntimeError("the loop was never steady: more arrivals or longer outputs are needed")
        median, worst = percentile(gaps, 50), percentile(gaps, 99)
        return {
            "steady_gaps": len(gaps),
            "steady_median_ms": round(1000 * median, 3),
            "steady_p99_ms": round(1000 * worst, 3),
            "steady_max_ms": round(1000 * max(gaps), 3),
            "steady_p99_over_median": round(worst / median, 2),
            "wanted_at_most": WANTED_RATIO,
            "long_first_token_ms": percentiles_ms(waits),
        }

    def _note(self, index: int, event: Event) -> None:
        if isinstance(event, Finish):
            self._finishes[index] = event


def token_times(finish: Finish) -> list[float]:
    """When each token came, by the engine's clock."""
    timings = finish.timings
    assert timings.arrived_at is not None and timings.first_token_seconds is not None
    first = timings.arrived_at + timings.first_token_seconds
    return list(accumulate(timings.inter_token_seconds, initial=first))


def measure_arrivals(meter: Meter, arrivals: Arrivals) -> dict[str, Any]:
    """One run, with the figures of any list and those of the steady streams."""
    loop = ClosedLoop(arrivals, meter.engine)
    run: Callable[[Owner], list[Finish]] = loop.run
    return meter.measure_loop(run) | loop.report()
