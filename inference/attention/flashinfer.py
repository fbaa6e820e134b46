"""Attention by the FlashInfer package where it is installed: taken when asked for by name, never by itself.

Written from the package's documentation and not yet run with it: see docs/operations.md.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from inference.attention.base import AttentionBackend, AttentionMetadata, AttentionParameters, Cache

PACKAGE = "flashinfer"
WORKSPACE_BYTES = 128 * 2**20  # what its documentation takes


class FlashInferFactory:
    """Makes a step's backend; keeps the workspace, and a wrapper for each set of layers' parameters."""

    def __init__(self) -> None:
        self._package: Any = importlib.import_module(PACKAGE)
        self._workspace: Tensor | None = None
        self._wrappers: dict[AttentionParameters, Any] = {}

    def __call__(self, cache: Cache, metadata: AttentionMetadata) -> FlashInferAttention:
        return FlashInferAttention(cache, metadata, self)

    def wrapper(self, parameters: AttentionParameters, device: torch.device) -> Any:
        """The wrapper that plans and runs layers of these parameters."""
        if self._workspace is None:
            self._workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
        if parameters not in self._wrappers:
            make = self._package.BatchPrefillWithPagedKVCacheWrapper
            self._wrappers[parameters] = make(self._workspace, "NHD")
        return self._wrappers[parameters]


class FlashInferAttention(AttentionBackend):
    """All sequences through the prefill wrapper: a decode row is a sequence of one token."""

    def __init__(self, cache: Cache, metadata: AttentionMetadata, factory: FlashInferFactory) -> None:
        super().__init__(cache, metadata)
        self._factory = factory
        self._planned: dict[AttentionParameters, Any] = {}
        sequences, block_size = metadata.sequences, cache.block_size
        lengths = [sequence.num_tokens for sequence in sequences]
        pages = [-(-sequence.kv_len // block_size) for sequence in sequences]
        self._first_tokens = _offsets(lengths)
        self._first_pages = _offsets(pages)
        self._last_lengths = _int32([(sequence.kv_len - 1) % block_size + 1 for sequence in sequences])
        self._pages = _int32(
            [
                block
                for sequence, count in zip(sequences, pages, strict=True)
                for block in sequence.block_table[:count]
            ]
        )

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, parameters: AttentionParameters
    ) -> Tensor:
        if parameters.sinks is not None:
            raise NotImplementedError("attention=flashinfer has no attention sinks: choose triton")
        if parameters not in self._planned:
            self._planned[parameters] = self._plan(parameters, query)
        pools = (self.cache.keys[layer], self.cache.values[layer])
        paged = tuple(pool.view(-1, self.cache.block_size, *pool.shape[1:]) for pool in pools)
        out: Tensor = self._planned[parameters].run(query.contiguous(), paged)
        return out

    def _plan(self, parameters: AttentionParameters, query: Tensor) -> Any:
        wrapper = self._factory.wrapper(parameters, query.device)
        pool = self.cache.keys[0]
        wrapper.plan(
            self._first_tokens,
            self._first_pages,
            self._pages.to(query.device),
            self._last_lengths,
            query.shape[1],
            pool.shape[1],
            pool.shape[2],
            self.cache.block_size,
            causal=True,  # each sequence's tokens are its last ones
            sm_scale=parameters.scaling,
            window_left=-1
            if parameters.window is None
            else parameters.window - 1,  # the token's own place apart
            logits_soft_cap=parameters.softcap,
            q_data_type=query.dtype,
            kv_data_type=pool.dtype,
        )
        return wrapper


def _int32(numbers: list[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32, device="cpu")


def _offsets(numbers: list[int]) -> Tensor:
    """`[len + 1]`: what stands before each, and all together."""
    return _int32([0, *numbers]).cumsum(0, dtype=torch.int32)
