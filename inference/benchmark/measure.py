"""One run of one request list through an engine: speed, latency, breakdown, roofline, memory."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import torch

from inference.benchmark.ceilings import Ceilings
from inference.benchmark.roofline import Roofline
from inference.benchmark.stopwatch import Breakdown
from inference.benchmark.workloads import Item
from inference.protocol.events import Event, Finish
from inference.protocol.requests import Deadlines, GenerateRequest, Owner, Sampling
from inference.protocol.stats import RevisionStats
from inference.scheduling.engine import Engine
from inference.scheduling.step_input import StepInput

NO_DEADLINES = Deadlines(
    queue_seconds=None, first_token_seconds=None, between_tokens_seconds=None, total_seconds=None
)
PERCENTS = (50, 90, 99)


class Meter:
    """Watches an engine and runs lists through it.

    Each run has a salt of its own: the prefix cache finds nothing of an earlier run.
    """

    def __init__(self, engine: Engine, ceilings: Ceilings) -> None:
        self.engine = engine
        self._roofline = Roofline(engine, ceilings)
        self._breakdown = Breakdown(engine, on_step=self._note)
        self._runs = count()

    def measure(self, items: Sequence[Item]) -> dict[str, Any]:
        """Everything queued at once, until all have finished."""
        return self.measure_loop(lambda owner: generate_all(self.engine, items, owner))

    def measure_loop(self, run: Callable[[Owner], list[Finish]]) -> dict[str, Any]:
        """The figures of whatever `run` has the engine do for an owner."""
        is_cuda = self.engine.card.device.startswith("cuda")
        if is_cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self._breakdown.reset()
        self._roofline.reset()
        before = self.engine.stats()
        owner = Owner(id="benchmark", salt=f"run {next(self._runs)}")
        started = time.perf_counter()
        finishes = run(owner)
        seconds = time.perf_counter() - started
        if failed := [finish.error for finish in finishes if finish.error]:
            raise RuntimeError(f"{len(failed)} requests failed, the first with {failed[0]}")
        return {
            **_totals(finishes, seconds),
            **_speculation(before, self.engine.stats()),
            **latencies(finishes),
            **self._breakdown.report(),
            **self._roofline.report(seconds),
            "peak_bytes": torch.cuda.max_memory_allocated() if is_cuda else _peak_resident_bytes(),
        }

    def _note(self, step: StepInput) -> None:
        self._roofline.add(step)


def generate_all(engine: Engine, items: Sequence[Item], owner: Owner) -> list[Finish]:
    """Queue everything at once and step until all have finished."""
    finishes: list[Finish] = []

    def collect(event: Event) -> None:
        if isinstance(event, Finish):
            finishes.append(event)

    for position, item in enumerate(items):
        engine.submit(request_for(engine, f"benchmark-{position}", item, owner), collect)
    while engine.has_work:
        engine.step()
    return finishes


def request_for(engine: Engine, request_id: str, item: Item, owner: Owner) -> GenerateRequest:
    """Greedy, of exactly the item's length."""
    return GenerateRequest(
        request_id=request_id,
        revision=engine.card.revision,
        token_ids=item.prompt,
        owner=owner,
        sampling=Sampling(max_tokens=item.num_output_tokens, temperature=0.0, ignore_eos=True),
        deadlines=NO_DEADLINES,
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p90 and p99 in milliseconds; empty without observations."""
    if not seconds:
        return {}
    return {f"p{percent}": round(1000 * percentile(seconds, percent), 3) for percent in PERCENTS}


def latencies(finishes: Sequence[Finish]) -> dict[str, dict[str, float]]:
    """By the engine's clock: from arrival to the first token, and every gap after it."""
    first = [one.timings.first_token_seconds for one in finishes]
    gaps = [gap for one in finishes for gap in one.timings.inter_token_seconds]
    return {
        "first_token_ms": percentiles_ms([seconds for seconds in first if seconds is not None]),
        "between_tokens_ms": percentiles_ms(gaps),
    }


def _totals(finishes: Sequence[Finish], seconds: float) -> dict[str, Any]:
    num_prompt = sum(finish.usage.prompt_tokens for finish in finishes)
    num_output = sum(finish.usage.completion_tokens for finish in finishes)
    return {
        "requests": len(finishes),
        "prompt_tokens": num_prompt,
        "cached_tokens": sum(finish.usage.cached_tokens for finish in finishes),
        "output_tokens": num_output,
        "seconds": round(seconds, 3),
        "output_tokens_per_second": round(num_output / seconds, 2),
        "prompt_tokens_per_second": round(num_prompt / seconds, 2),
        "preemptions": sum(finish.timings.num_preemptions for finish in finishes),
    }


def _speculation(before: RevisionStats, after: RevisionStats) -> dict[str, int]:
    return {
        "drafted_tokens": after.num_drafted_tokens - before.num_drafted_tokens,
        "accepted_tokens": after.num_accepted_tokens - before.num_accepted_tokens,
    }


def _peak_resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # since the process started
