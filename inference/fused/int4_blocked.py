"""INT4 weights on CPUs, laid out as compiled code reads them: no step makes floats of a whole weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from inference.cpu import compiler
from inference.cpu.packing import BLOCK, pack, unpack
from inference.fused.supported import can_fuse
from inference.quantization.int4 import Int4Linear, dequantize
from inference.quantization.linear import StoredLinear, frozen


class BlockedInt4Linear(StoredLinear):
    """An `Int4Linear` in blocks of outputs: words of eight weights, and scales. As many bytes as before."""

    PARAMETERS: ClassVar[tuple[str, ...]] = ("weight", "weight_scale")
    weight: nn.Parameter  # int32 [ceil(out / 32), in / 8, 32]
    weight_scale: nn.Parameter  # bfloat16 [ceil(out / 32), groups, 32]
    rounds: bool  # whether activations may be rounded to 15 bits

    @classmethod
    def of(cls, linear: Int4Linear) -> Self:
        """The same layer in blocks."""
        blocked = cls(linear.in_features, linear.out_features)
        blocked.weight = frozen(pack(linear.weight.data.view(torch.int32)))
        blocked.weight_scale = frozen(pack(linear.weight_scale.data.t()))
        blocked.bias = linear.bias
        blocked.rounds = False
        return blocked.eval()

    def exact_weight(self) -> Tensor:
        numbers = unpack(self.weight, self.out_features).contiguous().view(torch.uint8)
        return dequantize(numbers, unpack(self.weight_scale, self.out_features).t())

    def allow_rounding(self) -> None:
        self.rounds = True

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        return self.product()(rows).view(*x.shape[:-1], self.out_features)

    def product(self) -> Callable[[Tensor], Tensor]:
        from inference.cpu.matmul_single import multiply_int4

        weight, scale, bias = self.weight, self.weight_scale, self.bias
        num_outputs, rounds = self.out_features, self.rounds

        def multiply(x: Tensor) -> Tensor:
            exact = multiply_int4(x, weight, scale, num_outputs, rounds=rounds)
            return (exact if bias is None else exact + bias).to(x.dtype)

        return multiply


def to_blocked(model: Any) -> None:
    """Puts `BlockedInt4Linear` where `Int4Linear` was, of a model on a CPU that can use it.

    Layers that are to be joined stay where one of them would end within a block.
    """
    names = [name for name, module in model.named_modules() if type(module) is Int4Linear]
    if not names or not compiler.works():  # in this order: the second loads a compiler
        return
    if can_fuse(model) and not all(map(_fits, _linears(model.model))):
        names = [name for name in names if model.get_submodule(name) is model.get_output_embeddings()]
    for name in names:
        model.set_submodule(name, BlockedInt4Linear.of(model.get_submodule(name)))


def _linears(module: nn.Module) -> list[Int4Linear]:
    return [one for one in module.modules() if type(one) is Int4Linear]


def _fits(linear: Int4Linear) -> bool:
    return linear.out_features % BLOCK == 0
