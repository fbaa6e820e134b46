"""Runs a step so that a row that cannot be computed fails alone: what raised is halved and run again."""

from __future__ import annotations

from dataclasses import dataclass, field

from inference.scheduling.interfaces import Runner, Sampled, Sampler
from inference.scheduling.sequence import Plan, Row, Sequence


class DeviceLost(RuntimeError):
    """The device's context is gone: nothing that this engine holds can be computed any more."""


@dataclass(slots=True)
class Outcome:
    """What became of a step's rows, in order. A row that samples no token has None beside it.

    Of the rows with drafts only those are there whose drafts were right.
    """

    done: list[tuple[Row, Sampled | None]] = field(default_factory=list)
    preempted: set[Sequence] = field(default_factory=set)  # since: tokens count, keys are lost
    failed: dict[Sequence, Exception] = field(default_factory=dict)
    spoiled: set[Sequence] = field(default_factory=set)  # a draft's scores were not finite: none of it counts
    num_drafted: int = 0
    num_accepted: int = 0


def run_step(runner: Runner, sampler: Sampler, plan: Plan) -> Outcome:
    """Run and sample. No row reads what the same step writes for another, so any part can run again.

    Drafts do read what their sequences' rows write: where a step with drafts raises, it is run without them.
    """
    if any(row.draft is not None for row in plan.rows):
        try:
            return _run_ahead(runner, sampler, plan)
        except Exception as error:
            if is_device_lost(error):
                raise DeviceLost(type(error).__name__) from error
            plan = plan.without_drafts()
    outcome = Outcome()
    _run(runner, sampler, plan, outcome)
    return outcome


def _run(runner: Runner, sampler: Sampler, plan: Plan, outcome: Outcome) -> None:
    try:
        sequences = plan.sampling_sequences
        logits = runner.run(plan)
        sampled = iter(sampler.sample(logits, sequences) if sequences else ())
        outcome.done += [(row, next(sampled) if row.samples else None) for row in plan.rows]
    except Exception as error:
        if is_device_lost(error):
            raise DeviceLost(type(error).__name__) from error
        parts = _split(plan.rows, is_out_of_memory=is_out_of_memory(error))
        if not parts:
            outcome.failed[plan.rows[0].sequence] = error
        for part in parts:
            if part[0].sequence not in outcome.failed:  # a later chunk needs the earlier one
                _run(runner, sampler, Plan(part), outcome)


def _run_ahead(runner: Runner, sampler: Sampler, plan: Plan) -> Outcome:
    """Run a plan with drafts, and keep of each sequence what follows from tokens that it really has."""
    logits = runner.run(plan)
    sampled = iter(sampler.sample(logits, plan.sampling_sequences, plan.sampled_positions))
    outcome = Outcome()
    before: Sampled | None = None  # of the row before, which is the same sequence's where this one is a draft
    is_kept = True
    for row in plan.rows:
        found = next(sampled) if row.samples else None
        if row.draft is None:
            is_kept = True
        else:
            is_kept = is_kept and before is not None and before.token_id == row.draft
            outcome.num_drafted += 1
            if found is None or found.token_id is None:
                outcome.spoiled.add(row.sequence)
        if is_kept:
            outcome.done.append((row, found))
        before = found
    if outcome.spoiled:
        outcome.done = [(row, found) for row, found in outcome.done if row.sequence not in outcome.spoiled]
    outcome.num_accepted = sum(row.draft is not None for row, _ in outcome.done)
    return outcome


def _split(rows: tuple[Row, ...], *, is_out_of_memory: bool) -> list[tuple[Row, ...]]:
    """Two halves, or none where nothing is left to halve. Out of memory, a long row is halved too."""
    if len(rows) > 1:
        middle = len(rows) // 2
        return [rows[:middle], rows[middle:]]
    row = rows[0]
    if not is_out_of_memory or row.num_tokens == 1:
        return []
    half = row.num_tokens // 2
    first, second = (
        Row(row.sequence, row.start, half),
        Row(row.sequence, row.start + half, row.num_tokens - half),
    )
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
