"""Attention for CPUs: decode rows in a few calls, prefill chunks one by one, no key or value head copied.

The query heads that share a key-value head (a group) are folded: into the query length for decode, into the
batch for chunks. Repeating key-value heads instead costs 18 times as much at 9 heads over 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inference.attention.base import (
    AttentionBackend,
    AttentionMetadata,
    AttentionParameters,
    Cache,
    IntArray,
    SequenceSlice,
    causal_mask,
    explicit_attention,
)

# Decode rows are padded to the longest of their group. Below this many blocks one call for all is cheaper
# than several without padding; above it, rows are grouped by powers of two: at most half is padding.
SMALLEST_GROUP_BLOCKS = 16


class DecodeGroup:
    """Decode rows of similar length: their tokens in the batch, their blocks, the mask of their padding."""

    def __init__(self, sequences: Sequence[SequenceSlice], block_size: int, device: torch.device) -> None:
        self.num_rows = len(sequences)
        numbers = [(sequence.offset, sequence.kv_len) for sequence in sequences]
        self.tokens, self.kv_lens = torch.tensor(numbers, dtype=torch.int64, device=device).unbind(1)
        self.max_kv_len = max(sequence.kv_len for sequence in sequences)
        self.num_blocks = -(-self.max_kv_len // block_size)
        tables: IntArray = np.zeros((self.num_rows, self.num_blocks), dtype=np.int64)
        for table, sequence in zip(tables, sequences, strict=True):
            used = sequence.block_table[: self.num_blocks]
            table[: len(used)] = used
        self.blocks = torch.from_numpy(tables.reshape(-1)).to(device)  # [num_rows * num_blocks]
        self._masks: dict[int | None, Tensor | None] = {}

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Additive mask `[num_rows, 1, 1, max_kv_len]`; None where every row sees every key."""
        if window not in self._masks:
            positions = torch.arange(self.max_kv_len, dtype=torch.int64, device=self.kv_lens.device)
            lens = self.kv_lens[:, None]
            seen = positions < lens
            if window is not None:
                seen &= positions >= lens - window
            mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))
            self._masks[window] = None if bool(seen.all()) else mask[:, None, None]
        return self._masks[window]


class Chunk:
    """A prefill chunk: its place in the batch and, where keys were cached before it, its rows of the pool."""

    def __init__(self, sequence: SequenceSlice, block_size: int, device: torch.device) -> None:
        self.sequence = sequence
        self.tokens = slice(sequence.offset, sequence.offset + sequence.num_tokens)
        used = sequence.block_table[: -(-sequence.kv_len // block_size)]
        self.blocks = torch.tensor(used, dtype=torch.int64, device=device) if sequence.num_cached else None
        self._masks: dict[int | None, Tensor | None] = {}

    def mask(self, window: int | None, device: torch.device) -> Tensor | None:
        """Bool `[num_tokens, kv_len]`; None where plain causal attention from the first key on is meant."""
        if window not in self._masks:
            kv_len, num_tokens = self.sequence.kv_len, self.sequence.num_tokens
            is_plain = not self.sequence.num_cached and (window is None or window >= kv_len)
            self._masks[window] = (
                None if is_plain else causal_mask(kv_len, num_tokens, window=window, device=device)
            )
        return self._masks[window]


class CpuAttention(AttentionBackend):
    """SDPA over gathered keys and values: decode rows in groups of similar length, chunks one by one."""

    def __init__(self, cache: Cache, metadata: AttentionMetadata) -> None:
        super().__init__(cache, metadata)
        self.device = metadata.slots.device

    @cached_property  # compiled layers ask for none
    def chunks(self) -> list[Chunk]:
        """The sequences of more than one token."""
        chunks = (sequence for sequence in self.metadata.sequences if sequence.num_tokens > 1)
        return [Chunk(sequence, self.cache.block_size, self.device) for sequence in chunks]

    @cached_property
    def groups(self) -> list[DecodeGroup]:
        """The sequences of one token, those of similar length together."""
        block_size = self.cache.block_size
        by_size: dict[int, list[SequenceSlice]] = {}
        for sequence in self.metadata.sequences:
            if sequence.num_tokens == 1:
                num_blocks = max(-(-sequence.kv_len // block_size), SMALLEST_GROUP_BLOCKS)
                by_size.setdefault((num_blocks - 1).bit_length(), []).append(sequence)
        return [DecodeGroup(rows, block_size, self.device) for rows in by_size.values()]

    @cached_property
    def is_one_group(self) -> bool:
        """The whole batch is one decode group, its rows in order."""
        return not self.chunks and len(self.groups) == 1

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        parameters: AttentionParameters,
    ) -> Tensor:
        if self.is_one_group:  # its rows are the whole batch, in order
            return self._decode(self.groups[0], layer, query, parameters)
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        for group in self.groups:
            rows = query[group.tokens]
            out[group.tokens] = self._decode(group, layer, rows, parameters)
        for chunk in self.chunks:
            fresh = (key[chunk.tokens], value[chunk.tokens])
            out[chunk.tokens] = self._prefill(chunk, layer, query, fresh, parameters)
        return out

    def _decode(
        self, group: DecodeGroup, layer: int, query: Tensor, parameters: AttentionParameters
    ) -> Tensor:
        scaling, softcap, sinks = parameters.scaling, parameters.softcap, parameters.sinks
        num_rows, num_heads, head_dim = query.shape
        keys, values = self._gather(layer, group.blocks, group.num_rows, group.max_kv_len)
        mask = group.mask(parameters.window, query.dtype)
        folded = query.reshape(num_rows, keys.shape[1], -1, head_dim)  # [rows, kv_heads, group, dim]
        if softcap is None and sinks is None:
            out = F.scaled_dot_product_attention(folded, keys, values, attn_mask=mask, scale=scaling)
        else:
            # a group's heads are folded into the tokens: [num_rows, kv_heads, group, 1]
            folded_sinks = None if sinks is None else sinks.view(1, keys.shape[1], -1, 1)
            out = explicit_attention(
                folded, keys, values, mask, scaling=scaling, softcap=softcap, sinks=folded_sinks
            )
        return out.reshape(num_rows, num_heads, head_dim)

    def _prefill(
        self,
        chunk: Chunk,
        layer: int,
        query: Tensor,
        fresh: tuple[Tensor, Tensor],
        parameters: AttentionParameters,
    ) -> Tensor:
        scaling, softcap, sinks = parameters.scaling, parameters.softcap, parameters.sinks
        if chunk.blocks is None:
            keys, values = (states.transpose(0, 1)[None] for states in fresh)
        else:
            keys, values = self._gather(layer, chunk.blocks, 1, chunk.sequence.kv_len)
        num_tokens, num_heads, head_dim = query[chunk.tokens].shape
        num_kv_heads = keys.shape[1]
        num_groups = num_heads // num_kv_heads
        grouped = (
            query[chunk.tokens].reshape(num_tokens, num_kv_heads, num_groups, head_dim).permute(2, 1, 0, 3)
        )
        keys = keys.expand(num_groups, -1, -1, -1)  # [group, kv_heads, kv_len, dim], a view
        values = values.expand(num_groups, -1, -1, -1)
        mask = chunk.mask(parameters.window, self.device)
        if softcap is None and sinks is None:
            out = F.scaled_dot_product_attention(
                grouped, keys, values, attn_mask=mask, is_causal=mask is None, scale=scaling
            )
        else:
            if mask is None:
                mask = causal_mask(num_tokens, num_tokens, window=None, device=self.device)
            out = explicit_attention(
                grouped,
                keys,
                values,
                mask,
                scaling=scaling,
                softcap=softcap,
                sinks=None if sinks is None else sinks.view(num_kv_heads, num_groups).t()[:, :, None, None],
            )
        return out.permute(2, 1, 0, 3).reshape(num_tokens, num_heads, head_dim)

    def _gather(self, layer: int, blocks: Tensor, num_rows: int, kv_len: int) -> tuple[Tensor, Tensor]:
        """Keys and values of `num_rows` block tables, padded to `kv_len`: `[rows, kv_heads, kv_len, dim]`."""
        cache = self.cache
        keys, values = (
            pool[layer]
            .view(cache.num_blocks, -1)
            .index_select(0, blocks)
            .view(num_rows, -1, *pool[layer].shape[1:])[:, :kv_len]
            .transpose(1, 2)
            for pool in (cache.keys, cache.values)
        )
        return keys, values
