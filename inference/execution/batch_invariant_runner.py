"""Batch-invariant mode without a GPU: torch's products depend on how many rows they have, so rows run alone.

Slow: a batch costs as much as its rows one after another.
"""

from __future__ import annotations

import torch
from torch import Tensor

from inference.execution.runner import ModelRunner
from inference.models.loader import LoadedModel
from inference.scheduling.batch_invariance import Borders
from inference.scheduling.sequence import Plan, Row


class InvariantRunner(ModelRunner):
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
        self.borders = Borders(block_size)

    @torch.inference_mode()
    def run(self, plan: Plan) -> Tensor:
        return torch.cat([super(InvariantRunner, self).run(Plan((piece,))) for piece in self._pieces(plan)])

    @torch.inference_mode()
    def score(self, plan: Plan) -> Tensor:
        return torch.cat([super(InvariantRunner, self).score(Plan((piece,))) for piece in self._pieces(plan)])

    def _pieces(self, plan: Plan) -> list[Row]:
        assert self.borders is not None
        return [piece for row in plan.rows for piece in self.borders.cut(row)]
