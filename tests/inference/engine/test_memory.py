"""How large the KV pool becomes."""

from __future__ import annotations

from typing import Any

import pytest

from inference.engine.memory import CPU_MAX_TOKENS, TooLittleMemory, free_host_bytes, plan_num_blocks


def plan(**changed: Any) -> int:
    facts = {
        "free_bytes": 10**9,
        "block_bytes": 10**6,
        "block_size": 16,
        "max_model_len": 2048,
        "max_num_seqs": 256,
        "is_cuda": False,
    }
    return plan_num_blocks(**(facts | changed))


def test_a_cpu_gives_a_quarter_of_what_is_free_and_a_gpu_most() -> None:
    assert plan() == 250
    assert plan(is_cuda=True) == 900


def test_a_cpu_pool_is_capped_but_holds_two_contexts() -> None:
    assert plan(free_bytes=10**15) == CPU_MAX_TOKENS // 16
    assert plan(free_bytes=10**15, max_model_len=131_072) == 2 * 131_072 // 16


def test_no_pool_is_larger_than_the_batch_can_use() -> None:
    assert plan(free_bytes=10**15, is_cuda=True, max_num_seqs=2) == 256


def test_a_pool_too_small_to_be_of_use_is_refused() -> None:
    with pytest.raises(TooLittleMemory):
        plan(free_bytes=4 * 15 * 10**6)
    with pytest.raises(TooLittleMemory):
        plan(free_bytes=0)
    assert plan(free_bytes=4 * 4 * 10**6, max_model_len=64) == 4


def test_free_memory_is_a_plausible_number() -> None:
    assert 2**20 < free_host_bytes() < 2**50
