"""Runs the largest steps that can occur, before the first request pays for them."""

from __future__ import annotations

from collections.abc import Iterator

from inference.protocol.requests import GenerateRequest, Owner, Sampling
from inference.scheduling.interfaces import Runner, Sampler
from inference.scheduling.sequence import Sequence
from inference.scheduling.step_loop import StepRunner
from inference.scheduling.step_plan import ScheduledChunk, StepPlan

FILTERED = Sampling(top_p=0.9)  # what costs the sampler most
GREEDY = Sampling(temperature=0.0)


def warm_up(
    runner: Runner, sampler: Sampler, *, max_batch_tokens: int, max_num_seqs: int, max_model_len: int
) -> None:
    """One full chunk of prefill, then full batches of decode. Writes to blocks that nobody holds yet."""
    capacity = runner.num_blocks * runner.block_size
    num_tokens = max(1, min(max_batch_tokens, max_model_len - 1, capacity))
    _run(runner, sampler, StepPlan(tuple(_chunks(runner, num_rows=1, num_tokens=num_tokens))))
    for num_rows in dict.fromkeys((1, min(max_num_seqs, max_batch_tokens, runner.num_blocks))):
        _run(runner, sampler, StepPlan(tuple(_chunks(runner, num_rows=num_rows, num_tokens=1))))


def warm_up_mixes(runner: Runner, step_runner: StepRunner, *, max_num_seqs: int) -> None:
    """A little prefill beside 1, 2, 4, ... decoding sequences: kernels are compiled when they first run."""
    num_decode = 1
    while num_decode < min(max_num_seqs, runner.num_blocks):
        decoding = _chunks(runner, num_rows=num_decode, num_tokens=1, sampling=GREEDY)
        prefilling = _chunks(runner, num_rows=1, num_tokens=2, sampling=GREEDY, first_block=num_decode)
        step_runner.execute(StepPlan((*decoding, *prefilling)))
        while not step_runner.is_idle:
            step_runner.execute(StepPlan(()))
        num_decode *= 2


def _run(runner: Runner, sampler: Sampler, plan: StepPlan) -> None:
    sampler.sample(runner.run(plan.input), plan.input.sampling)


def _chunks(
    runner: Runner, *, num_rows: int, num_tokens: int, sampling: Sampling = FILTERED, first_block: int = 0
) -> Iterator[ScheduledChunk]:
    num_blocks = -(-num_tokens // runner.block_size)
    for index in range(num_rows):
        first = first_block + index * num_blocks
        request = GenerateRequest(
            request_id=f"warm-up {first}",
            revision="",
            token_ids=(0,) * num_tokens,
            owner=Owner("warm-up", salt=""),
            sampling=sampling,
        )
        table = tuple(range(first, first + num_blocks))
        sequence = Sequence(request, arrived_at=0.0, max_tokens=1, seed=index, block_table=table)
        yield ScheduledChunk(sequence, 0, num_tokens)
