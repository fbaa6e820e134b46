"""What an engine needs of a GPU's memory beside weights and KV pool, measured before the pool is planned.

Torch's allocator keeps what a step took, so once the largest has run, no step asks the GPU for more. Making
graphs gives that back for a while; so the largest step runs once more when all is there, and what is free
then is compared with what was to be left.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

import torch

from inference.checkpoints.model_folder import CannotLoad
from inference.protocol.requests import GenerateRequest, Owner, Sampling
from inference.scheduling.interfaces import Runner, Sampler
from inference.scheduling.sequence import Sequence
from inference.scheduling.step_plan import ScheduledChunk, StepPlan

MEBIBYTE = 2**20
# Left free for what no measurement sees: kernels that are compiled later, and steps of other sizes, whose
# memory does not fit into the gaps that those before them left.
RESERVE_SHARE = 0.01  # of the GPU's memory
LEAST_RESERVE_BYTES = 256 * MEBIBYTE
SEGMENT_BYTES = 2 * MEBIBYTE  # torch rounds large tensors up to this: each of the pool's wastes some
LEAST_PART_OF_RESERVE = 4  # of the reserve at least a fourth is free when all is there, or the plan was wrong
NUM_TRIED_GRAPHS = 4
COSTLIEST = Sampling(top_p=0.95)

logger = logging.getLogger(__name__)

RunnerT = TypeVar("RunnerT")


class Memory(Protocol):
    """A device's memory."""

    def free_bytes(self) -> int:
        """What nobody has taken, torch's allocator included."""

    def give_back(self) -> None:
        """Let go of what is held for later."""


class GpuMemory:
    """An NVIDIA GPU's."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def free_bytes(self) -> int:
        torch.cuda.synchronize(self._device)
        return torch.cuda.mem_get_info(self._device)[0]

    def total_bytes(self) -> int:
        return torch.cuda.mem_get_info(self._device)[1]

    def give_back(self) -> None:
        gc.collect()
        torch.cuda.empty_cache()


@contextmanager
def refusing_when_full() -> Iterator[None]:
    """Let `CannotLoad` say what to do where the GPU's memory does not suffice."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CannotLoad(
            "the GPU has too little memory for the model, its steps and its pool: "
            "lower num_blocks, max_batch_tokens or max_num_seqs, or quantize the model"
        ) from error


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes beside weights and pool."""

    step: int = 0  # the largest, and what a runner owns beside its pool
    graphs: int = 0
    reserve: int = 0  # to be left free

    @property
    def total(self) -> int:
        return self.step + self.graphs + self.reserve


def reserve_bytes(*, total_bytes: int, num_pool_tensors: int) -> int:
    """What is to be left free, for a pool of so many tensors on a GPU of so much memory."""
    return max(LEAST_RESERVE_BYTES, int(RESERVE_SHARE * total_bytes)) + num_pool_tensors * SEGMENT_BYTES


def measure(
    memory: Memory,
    make_runner: Callable[[], RunnerT],
    run_largest: Callable[[RunnerT], None],
    *,
    pool_bytes: Callable[[RunnerT], int],
    captures: Callable[[RunnerT], Iterator[int]],
) -> Needs:
    """What the largest step and the graphs need, seen over a small pool that is given back.

    `captures` makes graphs one by one, the largest first, and says each time how many there will be; the
    first few tell what all of them take.
    """
    runner = make_runner()
    run_largest(runner)  # loads kernels, which stay: the second time counts
    memory.give_back()
    free_before = memory.free_bytes()
    run_largest(runner)
    step = free_before - memory.free_bytes()
    graphs = _graph_bytes(memory, captures(runner))
    small_pool = pool_bytes(runner)
    del runner
    memory.give_back()
    own = memory.free_bytes() - free_before - small_pool
    return Needs(step=max(0, step) + max(0, own), graphs=graphs)


def _graph_bytes(memory: Memory, captures: Iterator[int]) -> int:
    memory.give_back()
    left, num_graphs = memory.free_bytes(), 0
    taken: list[int] = []
    for count in islice(captures, NUM_TRIED_GRAPHS):
        num_graphs = count
        memory.give_back()
        taken.append(left - memory.free_bytes())
        left -= taken[-1]
    if not taken:
        return 0
    first, *others = taken  # the first has the memory that all share
    return max(0, first) + max([0, *others]) * (num_graphs - 1)


def check_plan(needs: Needs, *, left_bytes: int, num_blocks: int) -> None:
    """Compare what is free in the end with what was to be. Raises `CannotLoad` where the plan failed."""
    planned, left = needs.reserve // MEBIBYTE, left_bytes // MEBIBYTE
    logger.info(
        "GPU memory: %d MiB for steps and %d MiB for graphs planned, %d MiB to be left and %d MiB left",
        needs.step // MEBIBYTE,
        needs.graphs // MEBIBYTE,
        planned,
        left,
    )
    if left_bytes < needs.reserve // LEAST_PART_OF_RESERVE:
        raise CannotLoad(
            f"of the GPU's memory {planned} MiB were to be left beside a pool of {num_blocks} blocks, but "
            f"{left} MiB are: set num_blocks to less, or lower max_batch_tokens or max_num_seqs"
        )


@torch.inference_mode()
def run_largest(
    runner: Runner, sampler: Sampler, *, max_batch_tokens: int, max_rows: int, max_model_len: int
) -> None:
    """The step that takes the most memory: all tokens and rows that there can be, the costliest sampling."""
    plan = largest_plan(
        max_batch_tokens=max_batch_tokens,
        max_rows=max_rows,
        max_len=min(max_model_len - 1, runner.num_blocks * runner.block_size),
        block_size=runner.block_size,
        num_blocks=runner.num_blocks,
    )
    logits = runner.run(plan.input)
    logits.zero_()  # equal scores: top_p leaves nearly all of them, so the sampler has to sort them all
    sampler.sample(logits, plan.input.sampling)


def largest_plan(
    *, max_batch_tokens: int, max_rows: int, max_len: int, block_size: int, num_blocks: int
) -> StepPlan:
    """As many rows as there can be, of which few prefill what the others leave of the budget.

    Rows share blocks: what is written there does not matter.
    """
    num_rows = min(max_rows, max_batch_tokens)
    num_prefill = min(num_rows, -(-(max_batch_tokens - num_rows) // max(1, max_len - 1)))
    num_decode = num_rows - num_prefill
    left = max_batch_tokens - num_decode
    lengths = [min(max_len, left - index * max_len) for index in range(num_prefill)]
    decode = [_chunk(index, 1, 1, block_size, num_blocks) for index in range(num_decode)]
    prefill = [_chunk(num_decode, 0, length, block_size, num_blocks) for length in lengths]
    return StepPlan((*decode, *prefill))


def _chunk(first_block: int, start: int, num_tokens: int, block_size: int, num_blocks: int) -> ScheduledChunk:
    """One that reaches its sequence's end; after a prompt of `start` tokens, if there is one."""
    end = start + num_tokens
    request = GenerateRequest(
        request_id="largest",
        revision="",
        token_ids=(0,) * (start or end),
        owner=Owner("largest", salt=""),
        sampling=COSTLIEST,
    )
    table = tuple([(first_block + index) % num_blocks for index in range(-(-end // block_size))])
    sequence = Sequence(request, arrived_at=0.0, max_tokens=end, seed=0, block_table=table)
    sequence.token_ids += [0] * (end - len(sequence.token_ids))
    return ScheduledChunk(sequence, start, num_tokens)
