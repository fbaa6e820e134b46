"""INT8 weights and, above a number of rows, INT8 activations: each token with a scale, found as it comes.

Products of many rows take twice as many operations a second then. Those of few wait for the weights, whatever
they are multiplied with: there activations keep their precision, as with int8. On CPUs all rows do, where
they may be rounded to 15 bits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from inference.kernels.rows import QuantizedRows, Rows, quantize_rows
from inference.quantization.int8 import Int8Linear
from inference.quantization.int8_matmul import FastestMatmul
from inference.quantization.quantizer import register_method

METHOD = "pilothouse_w8a8"
MOST_EXACT_ROWS = 64  # that are multiplied as floats


class W8A8Linear(Int8Linear):
    """A linear layer with an int8 weight; above MOST_EXACT_ROWS rows activations are int8, per token."""

    @property
    def keeps_activations(self) -> bool:
        """True where activations stay float: on CPUs int8 is not faster than rounding to 15 bits."""
        may_round = isinstance(self.matmul, FastestMatmul) and self.matmul.rounds
        return may_round and self.weight.device.type == "cpu"

    def activation_dtype(self, num_rows: int) -> torch.dtype | None:
        return None if num_rows <= MOST_EXACT_ROWS or self.keeps_activations else torch.int8

    def forward(self, x: Rows) -> Tensor:
        if isinstance(x, QuantizedRows):
            product = self._product(x)
            return product if self.bias is None else product + self.bias
        rows = x.reshape(-1, self.in_features)
        if self.activation_dtype(len(rows)) is None:
            return super().forward(x)
        return self.forward(_quantized(rows)).view(*x.shape[:-1], self.out_features)

    def _product(self, x: QuantizedRows) -> Tensor:
        if x.values.is_cuda:
            from inference.quantization.weight_only_cuda import multiply_int8_rows

            return multiply_int8_rows(x, self.weight, self.weight_scale)
        return (linear(x.exact(), self.weight.float()) * self.weight_scale.squeeze(-1)).to(x.dtype)


def _quantized(rows: Tensor) -> QuantizedRows:
    if rows.is_cuda:
        from inference.kernels.layer import quantize

        return quantize(rows.contiguous(), torch.int8)
    return quantize_rows(rows, torch.int8)


W8A8Config = register_method(METHOD, W8A8Linear)
