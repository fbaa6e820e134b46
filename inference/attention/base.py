"""The interface of paged attention backends, and the function by which transformers calls them.

A model whose attention implementation is `NAME` calls `paged_attention` in every layer; the backend that
the runner passes as `attention_backend` writes the new keys and values into the pool and attends over it.
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

from inference.kernels.rows import saturated

NAME = "pilothouse_paged"
LARGEST_SCORES = 2**22  # attention scores that are held at once where they are held at all: 16 MiB

IntArray = npt.NDArray[np.int64]


class Cache(Protocol):
    """The KV pool, as attention sees it: per layer `[num_blocks * block_size, num_kv_heads, head_dim]`."""

    keys: list[Tensor]
    values: list[Tensor]
    num_blocks: int
    block_size: int


@dataclass(frozen=True, slots=True)
class SequenceSlice:
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
class AttentionMetadata:
    """A packed batch in host memory: which tokens belong together and where their keys and values go."""

    sequences: Sequence[SequenceSlice]
    slots: Tensor  # [num_tokens], rows of the pool, on the device


@dataclass(frozen=True, slots=True)
class AttentionParameters:
    """The settings of one layer's attention."""

    scaling: float  # of the scores
    window: int | None = None  # a token sees the last `window` positions, itself included; None: all
    softcap: float | None = None  # scores become `softcap * tanh(score / softcap)`; None: as they are
    sinks: Tensor | None = None  # [num_heads], a logit per head that takes its share and gives nothing


class AttentionBackend(ABC):
    """An attention implementation, made anew for each step: what all layers share is computed once."""

    def __init__(self, cache: Cache, metadata: AttentionMetadata) -> None:
        self.cache = cache
        self.metadata = metadata
        self.slots = metadata.slots

    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Put the step's keys and values, `[num_tokens, num_kv_heads, head_dim]`, into the pool."""
        write_rows(self.cache.keys[layer], self.slots, key)
        write_rows(self.cache.values[layer], self.slots, value)

    @abstractmethod
    def attend(
        self,
        layer: int,
        query: Tensor,  # [num_tokens, num_heads, head_dim]
        key: Tensor,  # [num_tokens, num_kv_heads, head_dim], already in the pool
        value: Tensor,
        parameters: AttentionParameters,
    ) -> Tensor:
        """Attention of the step's tokens over the pool: `[num_tokens, num_heads, head_dim]`."""


def write_rows(pool: Tensor, slots: Tensor, states: Tensor) -> None:
    """Put `states` into rows of a pool; into one of 8 bits, as far as its numbers reach."""
    if pool.dtype == states.dtype:
        pool.index_copy_(0, slots, states)
    elif pool.dtype.itemsize > 1:
        raise TypeError(f"layers give keys and values in {states.dtype}, but the KV pool is of {pool.dtype}")
    else:
        pool.view(torch.uint8).index_copy_(0, slots, saturated(states, pool.dtype).view(torch.uint8))


def read_rows(pool: Tensor, slots: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of a pool, in the dtype to compute in."""
    if pool.dtype == dtype:
        return pool[slots]
    return pool.view(torch.uint8)[slots].view(pool.dtype).to(dtype)  # few operations know 8-bit floats


def causal_mask(kv_len: int, num_tokens: int, *, window: int | None, device: torch.device) -> Tensor:
    """Causal mask of the last `num_tokens` tokens over `kv_len` keys: bool `[num_tokens, kv_len]`."""
    positions = torch.arange(kv_len, dtype=torch.int64, device=device)
    own = positions[kv_len - num_tokens :, None]
    mask = positions <= own
    return mask if window is None else mask & (positions > own - window)


def explicit_attention(
    query: Tensor,  # [batch, heads, num_tokens, head_dim]
    key: Tensor,  # [batch, heads, kv_len, head_dim]
    value: Tensor,
    mask: Tensor | None,  # boolean or additive, ends in [num_tokens or 1, kv_len]
    *,
    scaling: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,  # ends in [heads, num_tokens or 1, 1]
) -> Tensor:
    """Attention with what SDPA lacks: `softcap * tanh(score / softcap)`, and sinks in the denominator.

    Scores of all tokens at once would grow with the square of a long text: they come a few tokens at a time.
    """
    scores_per_token = query.shape[0] * query.shape[1] * key.shape[2]
    tokens_at_once = max(1, LARGEST_SCORES // scores_per_token)
    if tokens_at_once < query.shape[2]:  # once, and not by the product of each piece
        key, value = key.contiguous(), value.contiguous()
    pieces = []
    for first in range(0, query.shape[2], tokens_at_once):
        tokens = slice(first, first + tokens_at_once)
        scores = query[:, :, tokens] @ key.transpose(-1, -2) * scaling
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        if mask is not None:
            seen = mask if mask.shape[-2] == 1 else mask[..., tokens, :]
            scores = scores.masked_fill(~seen, float("-inf")) if seen.dtype == torch.bool else scores + seen
        own = sinks if sinks is None or sinks.shape[-2] == 1 else sinks[..., tokens, :]
        pieces.append(_softmax(scores, own).to(value.dtype) @ value)
    return torch.cat(pieces, dim=2)


def _softmax(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Softmax in float32, to which a sink adds an entry that is then dropped."""
    if sinks is None:
        return scores.softmax(dim=-1, dtype=torch.float32)
    sinks = sinks.float().expand(*scores.shape[:-1], 1)
    return torch.cat([scores.float(), sinks], dim=-1).softmax(dim=-1)[..., :-1]


def paged_attention(
    module: nn.Module,
    query: Tensor,  # [1, num_heads, num_tokens, head_dim], after rotary embedding
    key: Tensor,  # [1, num_kv_heads, num_tokens, head_dim]
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    attention_backend: AttentionBackend,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls; other keyword arguments are its own bookkeeping."""
    layer: int = module.layer_idx  # type: ignore[assignment]
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    attention_backend.write(layer, k, v)
    parameters = AttentionParameters(scaling, window=sliding_window, softcap=softcap, sinks=s_aux)
    out = attention_backend.attend(layer, q, k, v, parameters)
    return out[None], None  # [1, num_tokens, num_heads, head_dim]


def register() -> None:
    """Make `NAME` known to transformers; idempotent. It has no mask function, so models build no mask."""
    AttentionInterface.register(NAME, paged_attention)
