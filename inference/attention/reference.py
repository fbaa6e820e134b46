"""Attention one sequence at a time, on any device: plain enough to be the oracle of the others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from inference.attention.base import (
    AttentionBackend,
    AttentionMetadata,
    AttentionParameters,
    Cache,
    SequenceSlice,
    causal_mask,
    explicit_attention,
    read_rows,
)


class ReferenceAttention(AttentionBackend):
    """Gathers each sequence's keys and values from the pool and masks them explicitly."""

    def __init__(self, cache: Cache, metadata: AttentionMetadata) -> None:
        super().__init__(cache, metadata)
        self.sequences = metadata.sequences
        device = metadata.slots.device
        within = torch.arange(cache.block_size, dtype=torch.int64, device=device)
        self.positions = [  # per sequence: [kv_len] rows of the pool
            (_table(sequence, device)[:, None] * cache.block_size + within).flatten()[: sequence.kv_len]
            for sequence in metadata.sequences
        ]
        self._masks: dict[int | None, list[Tensor]] = {}

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, parameters: AttentionParameters
    ) -> Tensor:
        scaling, softcap, sinks = parameters.scaling, parameters.softcap, parameters.sinks
        sink_column = None if sinks is None else sinks[:, None, None]  # [num_heads, 1, 1]
        out = torch.empty_like(query)
        for sequence, rows, mask in zip(
            self.sequences, self.positions, self._masks_for(parameters.window), strict=True
        ):
            tokens = slice(sequence.offset, sequence.offset + sequence.num_tokens)
            q = query[tokens].transpose(0, 1)[None]  # [1, num_heads, num_tokens, head_dim]
            groups = query.shape[1] // key.shape[1]
            states = (
                read_rows(pool[layer], rows, query.dtype) for pool in (self.cache.keys, self.cache.values)
            )
            k, v = (one.transpose(0, 1)[None].repeat_interleave(groups, dim=1) for one in states)
            if softcap is None and sinks is None:
                attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
            else:
                attended = explicit_attention(
                    q, k, v, mask, scaling=scaling, softcap=softcap, sinks=sink_column
                )
            out[tokens] = attended[0].transpose(0, 1)
        return out

    def _masks_for(self, window: int | None) -> list[Tensor]:
        if window not in self._masks:
            self._masks[window] = [
                causal_mask(sequence.kv_len, sequence.num_tokens, window=window, device=self.slots.device)
                for sequence in self.sequences
            ]
        return self._masks[window]


def _table(sequence: SequenceSlice, device: torch.device) -> Tensor:
    return torch.tensor(sequence.block_table, dtype=torch.int64, device=device)
