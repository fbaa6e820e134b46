"""Attention one sequence at a time, on any device: plain enough to be the oracle of the others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from inference.attention.base import Cache, Layout, Step, Stretch, explicit_attention, fetch, visible


class ReferenceStep(Step):
    """Gathers each sequence's keys and values from the pool and masks them explicitly."""

    def __init__(self, cache: Cache, layout: Layout) -> None:
        super().__init__(cache, layout)
        self.stretches = layout.stretches
        device = layout.slots.device
        within = torch.arange(cache.block_size, dtype=torch.int64, device=device)
        self.positions = [  # per sequence: [kv_len] rows of the pool
            (_table(stretch, device)[:, None] * cache.block_size + within).flatten()[: stretch.kv_len]
            for stretch in layout.stretches
        ]
        self._masks: dict[int | None, list[Tensor]] = {}

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float,
        window: int | None,
        softcap: float | None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        sink_column = None if sinks is None else sinks[:, None, None]  # [num_heads, 1, 1]
        out = torch.empty_like(query)
        for stretch, rows, mask in zip(self.stretches, self.positions, self._masks_for(window), strict=True):
            tokens = slice(stretch.offset, stretch.offset + stretch.num_tokens)
            q = query[tokens].transpose(0, 1)[None]  # [1, num_heads, num_tokens, head_dim]
            groups = query.shape[1] // key.shape[1]
            k, v = (
                fetch(pool[layer], rows, query.dtype).transpose(0, 1)[None].repeat_interleave(groups, dim=1)
                for pool in (self.cache.keys, self.cache.values)
            )
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
                visible(stretch.kv_len, stretch.num_tokens, window=window, device=self.slots.device)
                for stretch in self.stretches
            ]
        return self._masks[window]


def _table(stretch: Stretch, device: torch.device) -> Tensor:
    return torch.tensor(stretch.block_table, dtype=torch.int64, device=device)
