"""Products of a fused model in batch-invariant mode: a row's sums never depend on its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inference.checkpoints.model_folder import CannotLoad
from inference.fused.gpu_layer import PlainProduct, gpu_product
from inference.kernels.matmul import Tile, agreeing_tiles, invariant_product
from inference.kernels.rows import Rows


@dataclass(frozen=True, slots=True)
class InvariantProduct:
    """With a float weight, by a kernel of our own."""

    weight: Tensor
    bias: Tensor | None
    tiles: tuple[Tile, ...]

    def activation_dtype(self, num_rows: int) -> torch.dtype | None:
        return None

    def __call__(self, x: Rows) -> Tensor:
        assert isinstance(x, Tensor)
        return invariant_product(x, self.weight, self.bias, self.tiles)


class InvariantProductFactory:
    """Joins layers as `gpu_product` does. Tiles are looked for once for each shape of a weight."""

    def __init__(self) -> None:
        self._tiles: dict[torch.Size, tuple[Tile, ...]] = {}

    def __call__(self, linears: Sequence[Any]) -> InvariantProduct:
        joined = gpu_product(list(linears))
        if not isinstance(joined, PlainProduct):
            raise CannotLoad(
                "batch_invariant on a GPU needs plain weights: "
                "quantization chooses its kernels by the number of rows"
            )
        weight = joined.weight
        if weight.shape not in self._tiles:
            self._tiles[weight.shape] = agreeing_tiles(weight)
        return InvariantProduct(weight, joined.bias, self._tiles[weight.shape])
