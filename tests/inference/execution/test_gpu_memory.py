"""What a GPU engine needs beside its pool: measured on a device that only counts, and checked afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from inference.checkpoints.model_folder import CannotLoad
from inference.execution.gpu_memory import (
    LEAST_RESERVE_BYTES,
    MEBIBYTE,
    SEGMENT_BYTES,
    Needs,
    check_plan,
    largest_plan,
    measure,
    refusing_when_full,
    reserve_bytes,
    run_largest,
)
from inference.scheduling.step_input import SamplingInput, StepInput

POOL, OWN, STEP, KERNELS, FIRST_GRAPH, OTHER_GRAPH = 500, 70, 300, 40, 120, 6


class FakeMemory:
    """Counts what is taken for good, what is held until it is given back, and kernels, which stay."""

    def __init__(self) -> None:
        self.used = 1000
        self.held = 0

    def free_bytes(self) -> int:
        return 100_000 - self.used - self.held

    def give_back(self) -> None:
        self.held = 0


class FakeRunner:
    def __init__(self, memory: FakeMemory) -> None:
        self.memory = memory
        self.taken = POOL + OWN
        self.memory.used += self.taken
        self.has_kernels = False

    def __del__(self) -> None:
        self.memory.used -= self.taken

    def run_largest(self) -> None:
        self.memory.used += 0 if self.has_kernels else KERNELS
        self.has_kernels = True
        self.memory.held = max(self.memory.held, STEP)

    def captures(self) -> Iterator[int]:
        for index in range(35):
            self.memory.held = STEP  # of the run that compiles
            graph = OTHER_GRAPH if index else FIRST_GRAPH
            self.taken += graph
            self.memory.used += graph
            yield 35


def measured(memory: FakeMemory, **changed: Any) -> Needs:
    options: dict[str, Any] = {
        "pool_bytes": lambda runner: POOL,
        "captures": FakeRunner.captures,
    }
    return measure(memory, lambda: FakeRunner(memory), FakeRunner.run_largest, **(options | changed))


def test_needs_are_the_step_what_the_runner_owns_and_all_graphs() -> None:
    memory = FakeMemory()
    needs = measured(memory)
    assert needs == Needs(step=STEP + OWN, graphs=FIRST_GRAPH + 34 * OTHER_GRAPH)
    assert memory.used == 1000 + KERNELS and memory.held == 0, "the small pool was not given back"


def test_without_graphs_nothing_is_set_aside_for_them() -> None:
    assert measured(FakeMemory(), captures=lambda runner: iter(())).graphs == 0


def test_the_reserve_is_a_hundredth_but_never_tiny_and_rounding_of_the_pool_comes_on_top() -> None:
    assert reserve_bytes(total_bytes=10**9, num_pool_tensors=0) == LEAST_RESERVE_BYTES
    assert reserve_bytes(total_bytes=150 * 10**9, num_pool_tensors=64) == 1_500_000_000 + 64 * SEGMENT_BYTES


def test_a_plan_that_did_not_hold_is_refused_with_what_to_do() -> None:
    needs = Needs(step=1, graphs=1, reserve=400 * MEBIBYTE)
    check_plan(needs, left_bytes=100 * MEBIBYTE, num_blocks=7)
    with pytest.raises(CannotLoad, match="400 MiB were to be left beside a pool of 7 blocks, but 99 MiB are"):
        check_plan(needs, left_bytes=100 * MEBIBYTE - 1, num_blocks=7)


def test_a_full_gpu_is_a_refusal() -> None:
    with pytest.raises(CannotLoad, match="lower num_blocks"), refusing_when_full():
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("max_batch_tokens", "max_rows", "max_len"),
    [(4096, 256, 4095), (4096, 256, 100), (64, 256, 500), (16, 4, 500), (1, 1, 1), (8, 8, 1)],
)
def test_the_largest_plan_uses_up_the_budget_and_the_rows(
    max_batch_tokens: int, max_rows: int, max_len: int
) -> None:
    plan = largest_plan(
        max_batch_tokens=max_batch_tokens, max_rows=max_rows, max_len=max_len, block_size=16, num_blocks=9
    )
    assert plan.num_tokens == max_batch_tokens
    assert len(plan.chunks) == min(max_rows, max_batch_tokens)
    assert all(row.samples and row.num_tokens <= max_len for row in plan.chunks)
    for row in plan.chunks:
        assert len(row.sequence.block_table) * 16 >= row.end
        assert max(row.sequence.block_table) < 9


def test_the_sampler_is_given_its_worst_case() -> None:
    class Runner:
        num_blocks, block_size = 4, 16

        def run(self, step: StepInput) -> torch.Tensor:
            return torch.randn(len(step.sampling.params), 5000)

        def zero_blocks(self, block_ids: Any) -> None: ...

    class Sampler:
        def sample(self, logits: torch.Tensor, sampling: SamplingInput) -> list[Any]:
            assert len(logits) == len(sampling.params) == 8
            assert not logits.any(), "equal scores make top_p sort the whole vocabulary"
            assert all(0 < params.top_p < 1 for params in sampling.params)
            self.was_asked = True
            return []

    sampler = Sampler()
    run_largest(Runner(), sampler, max_batch_tokens=20, max_rows=8, max_model_len=64)
    assert sampler.was_asked
