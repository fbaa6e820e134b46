"""Attention on NVIDIA GPUs: Triton kernels over device-side block tables, fit for CUDA graphs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inference.attention.base import AttentionBackend, AttentionParameters, Cache
from inference.kernels.decode_attention import decode_attention
from inference.kernels.layer import write_kv
from inference.kernels.prefill_attention import prefill_attention
from inference.kernels.softmax_tile import NO_WINDOW


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """The kernels' metadata of a packed batch, on the device: decode rows first, then prefill chunks."""

    slots: Tensor  # [num_tokens], rows of the pool that the tokens' keys and values go to
    tables: Tensor  # [num_rows, max_blocks], int32: block tables, a row for each sequence
    num_decode: int  # sequences with one token each, at the front of the batch
    rows: Tensor  # [num_decode], their rows of `tables`
    lens: Tensor  # [num_decode], keys that they attend to
    items: Tensor  # [num_items, 4], their keys split into parts: see split_kv.py
    parts: Tensor  # [num_decode, 2]
    tiles: Tensor  # [num_tiles, 2], of the others: see kernels/prefill_attention.py
    sequences: Tensor  # [num_sequences, 4]


class TritonAttention(AttentionBackend):
    """Decode by split-KV, prefill by tiles of queries; keys and values stay in their blocks."""

    def __init__(self, cache: Cache, batch: PagedBatch) -> None:
        self.cache = cache
        self.batch = batch
        self.slots = batch.slots

    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        write_kv(key, value, keys=keys, values=values, slots=self.slots)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, parameters: AttentionParameters
    ) -> Tensor:
        return self.attend_pool(layer, query, parameters)

    def attend_pool(self, layer: int, query: Tensor, parameters: AttentionParameters) -> Tensor:
        """Attention of `query` [num_tokens, num_heads, head_dim] over what the pool holds by now."""
        batch, keys, values = self.batch, self.cache.keys[layer], self.cache.values[layer]
        query = query.contiguous()
        out = torch.empty_like(query)
        if batch.num_decode:
            decode_attention(
                query[: batch.num_decode],
                keys,
                values,
                out[: batch.num_decode],
                tables=batch.tables,
                rows=batch.rows,
                lens=batch.lens,
                items=batch.items,
                parts=batch.parts,
                block_size=self.cache.block_size,
                scaling=parameters.scaling,
                window=parameters.window or NO_WINDOW,
                softcap=parameters.softcap or 0.0,
                sinks=parameters.sinks,
            )
        if batch.tiles.shape[0]:
            prefill_attention(
                query,
                keys,
                values,
                out,
                tables=batch.tables,
                tiles=batch.tiles,
                sequences=batch.sequences,
                block_size=self.cache.block_size,
                scaling=parameters.scaling,
                window=parameters.window or NO_WINDOW,
                softcap=parameters.softcap or 0.0,
                sinks=parameters.sinks,
            )
        return out
