"""Runs plans through a model: one packed forward over the KV pool that it owns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from inference.attention.base import Cache, Layout, Step
from inference.attention.cpu import CpuStep
from inference.attention.flashinfer import FlashInferSteps
from inference.attention.reference import ReferenceStep
from inference.engine.batch import Batch, pack
from inference.engine.invariance import Borders
from inference.engine.kv_cache import KVCache
from inference.engine.sequence import Plan
from inference.models.loader import LoadedModel

Steps = Callable[[Cache, Layout], Step]
ATTENTIONS: dict[str, Callable[[], Steps]] = {
    "reference": lambda: ReferenceStep,
    "cpu": lambda: CpuStep,
    "flashinfer": FlashInferSteps,
}


class ModelRunner:
    """A loaded model with its KV pool."""

    borders: Borders | None = None  # where rows are cut, in batch-invariant mode

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        num_blocks: int,
        block_size: int,
        kv_dtype: torch.dtype | None = None,  # None: the model's
    ) -> None:
        self.loaded = loaded
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.cache = KVCache(
            loaded.text_config,
            num_blocks=num_blocks,
            block_size=block_size,
            dtype=kv_dtype or loaded.dtype,
            device=loaded.device,
        )
        self._step_class = ATTENTIONS[loaded.attention]()

    @torch.inference_mode()
    def run(self, plan: Plan) -> Tensor:
        """Logits `[num_sampling, vocab]` in the plan's order; writes the rows' KV into their blocks."""
        batch = pack(plan, block_size=self.block_size, device=self.loaded.device)
        return self._forward(batch, batch.logit_rows)

    @torch.inference_mode()
    def score(self, plan: Plan) -> Tensor:
        """As `run`, but the logits after every token of the plan: to measure, not to serve."""
        return self._forward(pack(plan, block_size=self.block_size, device=self.loaded.device), 0)

    @torch.inference_mode()
    def scrub(self, block_ids: Sequence[int]) -> None:
        """Zero blocks that may hold NaN: attention masks what lies past the end, but 0 x NaN is NaN."""
        self.cache.zero(block_ids)

    def _forward(self, batch: Batch, wanted: Tensor | int) -> Tensor:
        output = self.loaded.model(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            use_cache=False,
            logits_to_keep=wanted,
            paged_step=self._step_class(self.cache, batch.layout),
        )
        logits: Tensor = output.logits[0]
        return logits
