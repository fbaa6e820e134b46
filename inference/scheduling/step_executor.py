"""Runs a step and verifies its drafts. A chunk that cannot be computed fails alone: what raises is halved."""

from __future__ import annotations

from dataclasses import dataclass, field

from inference.scheduling.interfaces import Runner, Sampled, Sampler
from inference.scheduling.sequence import Sequence
from inference.scheduling.step_plan import ScheduledChunk, StepPlan


class DeviceLost(RuntimeError):
    """The device's context is gone: nothing that this engine holds can be computed any more."""


@dataclass(slots=True)
class StepResult:
    """What became of a step's chunks, in order. A chunk that samples no token has None beside it.

    Of the chunks with drafts only those are there whose drafts were right.
    """

    done: list[tuple[ScheduledChunk, Sampled | None]] = field(default_factory=list)
    preempted: set[Sequence] = field(default_factory=set)  # since: tokens count, keys are lost
    failed: dict[Sequence, Exception] = field(default_factory=dict)
    invalid_drafts: set[Sequence] = field(default_factory=set)  # their scores were not finite: nothing counts
    num_drafted: int = 0
    num_accepted: int = 0


def execute(runner: Runner, sampler: Sampler, plan: StepPlan) -> StepResult:
    """Run and sample. No chunk reads what the same step writes for another, so any part can run again.

    Drafts do read what their sequences' chunks write: a step with drafts that raises is run without them.
    """
    if any(chunk.draft is not None for chunk in plan.chunks):
        try:
            return verify_drafts(plan, _run(runner, sampler, plan))
        except Exception as error:
            if is_device_lost(error):
                raise DeviceLost(type(error).__name__) from error
            plan = plan.without_drafts()
    result = StepResult()
    _run_parts(runner, sampler, plan, result)
    return result


def _run(runner: Runner, sampler: Sampler, plan: StepPlan) -> list[Sampled | None]:
    """What is sampled after each chunk."""
    step = plan.input
    logits = runner.run(step)
    sampled = iter(sampler.sample(logits, step.sampling) if step.sampling.params else ())
    return [next(sampled) if samples else None for samples in step.samples]


def _run_parts(runner: Runner, sampler: Sampler, plan: StepPlan, result: StepResult) -> None:
    try:
        result.done += zip(plan.chunks, _run(runner, sampler, plan), strict=True)
    except Exception as error:
        if is_device_lost(error):
            raise DeviceLost(type(error).__name__) from error
        parts = _split(plan.chunks, is_out_of_memory=is_out_of_memory(error))
        if not parts:
            result.failed[plan.chunks[0].sequence] = error
        for part in parts:
            if part[0].sequence not in result.failed:  # a later chunk needs the earlier one
                _run_parts(runner, sampler, StepPlan(part), result)


def verify_drafts(plan: StepPlan, sampled: list[Sampled | None]) -> StepResult:
    """Accept of each sequence's drafts those that follow from tokens that it really has."""
    result = StepResult()
    before: Sampled | None = None  # of the chunk before: the same sequence's where this one is a draft
    is_accepted = True
    for chunk, found in zip(plan.chunks, sampled, strict=True):
        if chunk.draft is None:
            is_accepted = True
        else:
            is_accepted = is_accepted and before is not None and before.token_id == chunk.draft
            result.num_drafted += 1
            if found is None or found.token_id is None:
                result.invalid_drafts.add(chunk.sequence)
        if is_accepted:
            result.done.append((chunk, found))
        before = found
    if result.invalid_drafts:
        invalid = result.invalid_drafts
        result.done = [(chunk, found) for chunk, found in result.done if chunk.sequence not in invalid]
    result.num_accepted = sum(chunk.draft is not None for chunk, _ in result.done)
    return result


def _split(chunks: tuple[ScheduledChunk, ...], *, is_out_of_memory: bool) -> list[tuple[ScheduledChunk, ...]]:
    """Two halves, or none where nothing is left to halve. Out of memory, a long chunk is halved too."""
    if len(chunks) > 1:
        middle = len(chunks) // 2
        return [chunks[:middle], chunks[middle:]]
    chunk = chunks[0]
    if not is_out_of_memory or chunk.num_tokens == 1:
        return []
    half = chunk.num_tokens // 2
    first = ScheduledChunk(chunk.sequence, chunk.start, half)
    second = ScheduledChunk(chunk.sequence, chunk.start + half, chunk.num_tokens - half)
    return [(first,), (second,)]


def is_out_of_memory(error: BaseException) -> bool:
    """By name and message, since this module knows no torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    message = str(error)
    return "out of memory" in message or "can't allocate memory" in message


def is_device_lost(error: BaseException) -> bool:
    """A CUDA error other than out of memory leaves the process's context unusable."""
    if is_out_of_memory(error):
        return False
    return type(error).__name__ == "AcceleratorError" or "CUDA error" in str(error)
