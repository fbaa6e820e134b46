"""The KV pool's tensors, and how many blocks of it memory allows. Which block belongs to whom: block_pool."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PretrainedConfig

from inference.config import EngineConfig


def kv_heads_and_dim(config: PretrainedConfig) -> tuple[int, int]:
    """Key-value heads and the size of each, of a (text) model's config."""
    num_heads: int = config.num_attention_heads
    num_kv_heads: int = getattr(config, "num_key_value_heads", None) or num_heads
    head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    return num_kv_heads, head_dim


def pool_dtype(config: EngineConfig, dtype: torch.dtype) -> torch.dtype:
    """What keys and values are kept in by a model that computes in `dtype`. fp8 saturates, without scales."""
    return torch.float8_e4m3fn if config.kv_dtype == "fp8" else dtype


def token_bytes(config: PretrainedConfig, *, dtype: torch.dtype) -> int:
    """Memory of one token over all layers, keys and values; layers that use another's keep none."""
    is_mixed = getattr(config, "is_heterogeneous", False)  # heads of another number or size by layer
    layers = config.per_layer_config if is_mixed else [config] * config.num_hidden_layers
    modes = getattr(config, "kv_sharing_modes", None) or [None] * len(layers)
    sizes = [kv_heads_and_dim(layer) for layer, mode in zip(layers, modes, strict=True) if mode != "reuse"]
    return sum(2 * num_kv_heads * head_dim * dtype.itemsize for num_kv_heads, head_dim in sizes)


class KVCache:
    """Per layer one tensor of keys and one of values, `[num_blocks * block_size, num_kv_heads, head_dim]`."""

    def __init__(
        self,
        config: PretrainedConfig,
        *,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        shape = (num_blocks * block_size, *kv_heads_and_dim(config))
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        # Zeros, not empty: padding of gathered blocks is masked, but a NaN in it would survive the mask.
        for _ in range(config.num_hidden_layers):
            self.keys.append(_zeros(shape, dtype=dtype, device=device))
            self.values.append(_zeros(shape, dtype=dtype, device=device))

    @property
    def num_bytes(self) -> int:
        """Memory of the whole pool."""
        return sum(pool.nbytes for pool in (*self.keys, *self.values))

    def zero(self, block_ids: Sequence[int]) -> None:
        """Wipe blocks in every layer."""
        for pool in (*self.keys, *self.values):
            pool.view(torch.uint8).view(self.num_blocks, -1)[list(block_ids)] = 0  # zero in every dtype


def _zeros(shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """On a CPU, pages that the system fills in when they are first used: a pool that is little used takes
    little, and no start waits for gigabytes of zeros.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    num_bytes = math.prod(shape) * dtype.itemsize
    pages = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=torch.uint8).view(dtype).view(shape)
