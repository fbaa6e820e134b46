"""How large the KV pool becomes."""

from __future__ import annotations

from typing import Any

import pytest

from inference.execution.host_memory import TooLittleMemory, free_host_bytes, plan_num_blocks
from inference.kv_pool_size import CPU_MAX_TOKENS, Pool

MB = 10**6


def pool(**changed: Any) -> Pool:
    facts = {
        "token_bytes": MB,
        "block_size": 16,
        "max_model_len": 2048,
        "max_num_seqs": 256,
        "is_cuda": False,
    }
    return Pool(**(facts | changed))


def plan(
    *, free_bytes: int = 16_000 * MB, taken_bytes: int = 0, room_bytes: int | None = None, **changed: Any
) -> int:
    return plan_num_blocks(
        pool(**changed), free_bytes=free_bytes, taken_bytes=taken_bytes, room_bytes=room_bytes
    )


def test_a_cpu_gives_a_quarter_of_what_is_free_and_a_gpu_what_its_steps_leave() -> None:
    assert plan() == 250
    assert plan(is_cuda=True) == 1000
    assert plan(is_cuda=True, taken_bytes=1_600 * MB) == 900


def test_a_pool_keeps_within_the_room_of_its_revision() -> None:
    assert plan(room_bytes=1_600 * MB) == 100
    assert plan(room_bytes=1_600 * MB, is_cuda=True) == 100
    assert plan(room_bytes=10**15) == 250  # room that is not free is none
    with pytest.raises(TooLittleMemory):
        plan(room_bytes=-1)


def test_a_cpu_pool_is_capped_but_holds_two_contexts() -> None:
    assert plan(free_bytes=10**15) == CPU_MAX_TOKENS // 16
    assert plan(free_bytes=10**15, max_model_len=131_072) == 2 * 131_072 // 16


def test_no_pool_is_larger_than_the_batch_can_use() -> None:
    assert plan(free_bytes=10**15, is_cuda=True, max_num_seqs=2) == 256


def test_a_pool_too_small_to_be_of_use_is_refused() -> None:
    with pytest.raises(TooLittleMemory):
        plan(free_bytes=4 * 15 * 16 * MB)
    with pytest.raises(TooLittleMemory):
        plan(free_bytes=0)
    assert plan(free_bytes=4 * 4 * 16 * MB, max_model_len=64) == 4


def test_free_memory_is_a_plausible_number() -> None:
    assert 2**20 < free_host_bytes() < 2**50
