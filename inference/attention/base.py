"""The seam to transformers: what a paged attention gets to know of a step, and how models reach it.

A model whose attention implementation is `NAME` calls `paged_attention` in every layer; the step that
the runner passes as `paged_step` writes the new keys and values into the pool and attends over it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import AttentionInterface

NAME = "pilothouse_paged"

IntArray = npt.NDArray[np.int64]


class Cache(Protocol):
    """The KV pool, as attention sees it: per layer `[num_blocks * block_size, num_kv_heads, head_dim]`."""

    keys: list[Tensor]
    values: list[Tensor]
    num_blocks: int
    block_size: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """One sequence's tokens in a step: `num_tokens` new ones, the last at position `kv_len - 1`."""

    offset: int  # of its first token in the packed batch
    num_tokens: int
    kv_len: int  # keys that the last token may see, itself included
    block_table: Sequence[int]  # at least as many blocks as kv_len needs

    @property
    def num_cached(self) -> int:
        """Keys that were in the pool before the step."""
        return self.kv_len - self.num_tokens


@dataclass(frozen=True, slots=True)
class Layout:
    """A packed batch in host memory: which tokens belong together and where their keys and values go."""

    stretches: Sequence[Stretch]
    slots: Tensor  # [num_tokens], rows of the pool, on the device


class Step(ABC):
    """One attention implementation in one step; what is the same in all layers is computed once."""

    def __init__(self, cache: Cache, layout: Layout) -> None:
        self.cache = cache
        self.slots = layout.slots

    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Put the step's keys and values, `[num_tokens, num_kv_heads, head_dim]`, into the pool."""
        self.cache.keys[layer].index_copy_(0, self.slots, key)
        self.cache.values[layer].index_copy_(0, self.slots, value)

    @abstractmethod
    def attend(
        self,
        layer: int,
        query: Tensor,  # [num_tokens, num_heads, head_dim]
        key: Tensor,  # [num_tokens, num_kv_heads, head_dim], already in the pool
        value: Tensor,
        *,
        scaling: float,
        window: int | None,  # a token sees the last `window` positions, itself included; None: all
        softcap: float | None,
    ) -> Tensor:
        """Attention of the step's tokens over the pool: `[num_tokens, num_heads, head_dim]`."""


def visible(kv_len: int, num_tokens: int, *, window: int | None, device: torch.device) -> Tensor:
    """Which of `kv_len` keys each of the last `num_tokens` tokens may see: bool `[num_tokens, kv_len]`."""
    positions = torch.arange(kv_len, device=device)
    own = positions[kv_len - num_tokens :, None]
    mask = positions <= own
    return mask if window is None else mask & (positions > own - window)


def softcapped_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, scaling: float, softcap: float
) -> Tensor:
    """Attention with `softcap * tanh(score / softcap)`, which SDPA lacks; shapes as SDPA's."""
    scores = torch.tanh(query @ key.transpose(-1, -2) * (scaling / softcap)) * softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype) @ value


def paged_attention(
    module: nn.Module,
    query: Tensor,  # [1, num_heads, num_tokens, head_dim], after rotary embedding
    key: Tensor,  # [1, num_kv_heads, num_tokens, head_dim]
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    paged_step: Step,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in each layer. Other keyword arguments are its own bookkeeping."""
    if kwargs.get("s_aux") is not None:
        raise NotImplementedError("attention sinks are not supported")
    layer: int = module.layer_idx  # type: ignore[assignment]
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    paged_step.write(layer, k, v)
    out = paged_step.attend(layer, q, k, v, scaling=scaling, window=sliding_window, softcap=softcap)
    return out[None], None  # [1, num_tokens, num_heads, head_dim]


def register() -> None:
    """Make `NAME` known to transformers; idempotent. It has no mask function, so models build no mask."""
    AttentionInterface.register(NAME, paged_attention)
