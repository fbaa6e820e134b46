"""What a fused model on a GPU multiplies with, in plain torch and as quantized layers do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from inference.kernels.rows import Rows
from inference.kernels.sums import product
from inference.quantization.linear import QuantizedLinear, StoredLinear, join_rows


class Product(Protocol):
    """Rows [num_tokens, in] times a weight: [num_tokens, out]. `StoredLinear` is one."""

    def activation_dtype(self, num_rows: int) -> torch.dtype | None:
        """The dtype to which `num_rows` activations are to be quantized, each with its scale; None: as is."""

    def __call__(self, x: Rows) -> Tensor: ...


MakeProduct = Callable[[list[Any]], Product]  # linear layers of the same input -> one product


@dataclass(frozen=True, slots=True)
class PlainProduct:
    """With a float weight."""

    weight: Tensor
    bias: Tensor | None
    out_dtype: torch.dtype | None = None  # of the product; None: of what is multiplied

    def activation_dtype(self, num_rows: int) -> torch.dtype | None:
        return None

    def __call__(self, x: Rows) -> Tensor:
        assert isinstance(x, Tensor)
        if self.out_dtype is None:
            return F.linear(x, self.weight, self.bias)
        exact = product(x, self.weight, self.out_dtype)
        return exact if self.bias is None else exact + self.bias


def gpu_product(linears: list[Any]) -> Product:
    """One product for several layers of the same input, which become views of its weight and bias."""
    first = linears[0]
    if isinstance(first, StoredLinear):
        return type(first).joined(linears)
    weight = join_rows([linear.weight for linear in linears])
    bias = None if first.bias is None else join_rows([linear.bias for linear in linears])
    return PlainProduct(weight, bias)


def in_dtype(product: Any, out_dtype: torch.dtype) -> Product:
    """What a `MakeProduct` has just made, with sums that become that dtype without another one in between."""
    if isinstance(product, QuantizedLinear):
        product.out_dtype = out_dtype
        return product
    changed: Product = replace(product, out_dtype=out_dtype)
    return changed
