"""Batch-invariant mode without a GPU: torch's products depend on how many rows they have, so rows run alone.

Slow: a batch costs as much as its rows one after another.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inference.execution.runner import ModelRunner
from inference.models.loader import LoadedModel
from inference.scheduling.batch_invariance import ChunkAlignment
from inference.scheduling.sequence import ScheduledChunk, StepPlan


class BatchInvariantRunner(ModelRunner):
    """A runner whose products have the same shape whatever else the plan holds."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        num_blocks: int,
        block_size: int,
        kv_dtype: torch.dtype | None = None,
        fuses: bool = True,
    ) -> None:
        super().__init__(loaded, num_blocks=num_blocks, block_size=block_size, kv_dtype=kv_dtype, fuses=fuses)
        self.alignment = ChunkAlignment(block_size)

    @torch.inference_mode()
    def run(self, plan: StepPlan) -> Tensor:
        return torch.cat(
            [super(BatchInvariantRunner, self).run(StepPlan((piece,))) for piece in self._pieces(plan)]
        )

    @torch.inference_mode()
    def score(self, plan: StepPlan) -> Tensor:
        return torch.cat(
            [super(BatchInvariantRunner, self).score(StepPlan((piece,))) for piece in self._pieces(plan)]
        )

    def _pieces(self, plan: StepPlan) -> list[ScheduledChunk]:
        assert self.alignment is not None
        return [piece for row in plan.chunks for piece in self.alignment.cut(row)]
