"""A KV pool on a CPU takes memory as it is used, and is zero before."""

from __future__ import annotations

import resource
from pathlib import Path

import torch
from transformers import LlamaConfig

from inference.execution.kv_cache import KVCache

CONFIG = LlamaConfig(num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4, head_dim=64)
NUM_BLOCKS = 16_384  # 1 GB in all


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_pool_takes_memory_where_it_is_written() -> None:
    before = resident_bytes()
    cache = KVCache(
        CONFIG, num_blocks=NUM_BLOCKS, block_size=16, dtype=torch.float32, device=torch.device("cpu")
    )
    assert cache.num_bytes == 2**30
    assert resident_bytes() - before < 2**28
    last = cache.values[1][-16:]
    assert (last == 0).all()
    last.fill_(1)
    cache.zero([NUM_BLOCKS - 1])
    assert (cache.values[1][-16:] == 0).all()
