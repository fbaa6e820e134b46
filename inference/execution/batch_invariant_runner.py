"""Batch-invariant mode without a GPU: torch's products depend on how many rows they have, so rows run alone.

Slow: a batch costs as much as its rows one after another.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inference.execution.runner import ModelRunner
from inference.models.loader import LoadedModel
from inference.scheduling.batch_invariance import ChunkAlignment
from inference.scheduling.step_input import StepInput


class BatchInvariantRunner(ModelRunner):
    """A runner whose products have the same shape whatever else the step holds."""

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
        self.chunk_policy = self._alignment = ChunkAlignment(block_size)

    @torch.inference_mode()
    def run(self, step: StepInput) -> Tensor:
        return torch.cat([super(BatchInvariantRunner, self).run(piece) for piece in self._pieces(step)])

    @torch.inference_mode()
    def score(self, step: StepInput) -> Tensor:
        return torch.cat([super(BatchInvariantRunner, self).score(piece) for piece in self._pieces(step)])

    def _pieces(self, step: StepInput) -> list[StepInput]:
        return [
            step.piece(index, start, length)
            for index, chunk in enumerate(zip(step.starts, step.lengths, strict=True))
            for start, length in self._alignment.cut(*chunk)
        ]
