"""Attention by the FlashInfer package where it is installed: taken when asked for by name, never by itself.

Written from the package's documentation and not yet run with it: see docs/operations.md.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inference.attention.base import Cache, Layout, Step

PACKAGE = "flashinfer"
WORKSPACE_BYTES = 128 * 2**20  # what its documentation takes


@dataclass(frozen=True, slots=True)
class Kind:
    """What layers may differ in; a plan is for one of them."""

    scaling: float
    window: int | None
    softcap: float | None


class FlashInferSteps:
    """Makes steps, and keeps what outlives them: the workspace, and a wrapper for each kind of layer."""

    def __init__(self) -> None:
        self._package: Any = importlib.import_module(PACKAGE)
        self._workspace: Tensor | None = None
        self._wrappers: dict[Kind, Any] = {}

    def __call__(self, cache: Cache, layout: Layout) -> FlashInferStep:
        return FlashInferStep(cache, layout, self)

    def wrapper(self, kind: Kind, device: torch.device) -> Any:
        """The wrapper that plans and runs layers of a kind."""
        if self._workspace is None:
            self._workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
        if kind not in self._wrappers:
            make = self._package.BatchPrefillWithPagedKVCacheWrapper
            self._wrappers[kind] = make(self._workspace, "NHD")
        return self._wrappers[kind]


class FlashInferStep(Step):
    """One step: decode rows are stretches of one token."""

    def __init__(self, cache: Cache, layout: Layout, steps: FlashInferSteps) -> None:
        super().__init__(cache, layout)
        self._steps = steps
        self._planned: dict[Kind, Any] = {}
        stretches, block_size = layout.stretches, cache.block_size
        lengths = [stretch.num_tokens for stretch in stretches]
        pages = [-(-stretch.kv_len // block_size) for stretch in stretches]
        self._first_tokens = _sums(lengths)
        self._first_pages = _sums(pages)
        self._last_lengths = _whole([(stretch.kv_len - 1) % block_size + 1 for stretch in stretches])
        self._pages = _whole(
            [
                block
                for stretch, count in zip(stretches, pages, strict=True)
                for block in stretch.block_table[:count]
            ]
        )

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
        if sinks is not None:
            raise NotImplementedError("attention=flashinfer has no attention sinks: choose triton")
        kind = Kind(scaling, window, softcap)
        if kind not in self._planned:
            self._planned[kind] = self._plan(kind, query)
        pools = (self.cache.keys[layer], self.cache.values[layer])
        paged = tuple(pool.view(-1, self.cache.block_size, *pool.shape[1:]) for pool in pools)
        out: Tensor = self._planned[kind].run(query.contiguous(), paged)
        return out

    def _plan(self, kind: Kind, query: Tensor) -> Any:
        wrapper = self._steps.wrapper(kind, query.device)
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
            causal=True,  # each stretch's tokens are its last ones
            sm_scale=kind.scaling,
            window_left=-1 if kind.window is None else kind.window - 1,  # the token's own place apart
            logits_soft_cap=kind.softcap,
            q_data_type=query.dtype,
            kv_data_type=pool.dtype,
        )
        return wrapper


def _whole(numbers: list[int]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int32, device="cpu")


def _sums(numbers: list[int]) -> Tensor:
    """`[len + 1]`: what stands before each, and all together."""
    return _whole([0, *numbers]).cumsum(0, dtype=torch.int32)
