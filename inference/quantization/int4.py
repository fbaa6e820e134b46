"""INT4 symmetric weight-only quantization, one scale per output and group of inputs, for transformers.

Scales are those of the least squared error. Where it is known how large the inputs are that an error meets
(`importance`), it counts accordingly: a small model loses half as much then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.quantizers import register_quantization_config, register_quantizer

from inference.quantization.errors import CannotQuantize
from inference.quantization.linear import QuantizedLinear, frozen, join_columns
from inference.quantization.quantizer import LinearConfig, LinearQuantizer

METHOD = "pilothouse_int4"
GROUP = 128  # inputs that share a scale, where the number of inputs allows it
SMALLEST_GROUP = 32
OFFSET = 8  # added to the numbers, which are from -8 to 7, as they are packed
SCALE_DTYPE = torch.bfloat16
SMALLEST_SCALE = 1e-12  # of a group that is all zeros
RATIOS = [step / 25 for step in range(10, 30)]  # of a scale to that which just spans the group
NUMBERS_AT_ONCE = 2**24  # while quantizing


def group_of(num_inputs: int) -> int:
    """Inputs per scale: GROUP, or the largest smaller power of two that divides `num_inputs`."""
    group = GROUP
    while group >= SMALLEST_GROUP:
        if num_inputs % group == 0:
            return group
        group //= 2
    raise CannotQuantize(
        f"int4 packs inputs in groups of {SMALLEST_GROUP} at least, and a linear layer has {num_inputs}"
        " of them: choose quantization int8, or name the layer in modules_to_not_convert"
    )


def quantize(weight: Tensor, importance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """weight [out, in] -> packed numbers uint8 [out, in / 2] and bfloat16 scales [in / group, out].

    `importance` [in]: how much an error counts.
    """
    num_outputs, num_inputs = weight.shape
    group = group_of(num_inputs)
    if importance is None:
        importance = torch.ones(num_inputs, dtype=torch.float32, device=weight.device)
    importance = importance.to(weight.device, torch.float32).view(-1, group)
    parts = [
        _quantize_groups(part.float().view(len(part), -1, group), importance)
        for part in torch.split(weight, max(1, NUMBERS_AT_ONCE // num_inputs))
    ]
    packed = torch.cat([pack(numbers) for numbers, _ in parts]).view(num_outputs, num_inputs // 2)
    return packed, torch.cat([scale for _, scale in parts]).t().contiguous()


def _quantize_groups(exact: Tensor, importance: Tensor) -> tuple[Tensor, Tensor]:
    """exact [out, groups, group] -> numbers of that shape, and the scales [out, groups] that serve them best.

    The number farthest from zero becomes about -8: the range is one longer on that side. How much of it is
    to be cut off, so that the others are finer, is tried group by group.
    """
    farthest = exact.gather(-1, exact.abs().argmax(-1, keepdim=True))
    spanning = farthest / -OFFSET
    best_scale = torch.full_like(spanning, SMALLEST_SCALE)
    best_error = (exact.square() * importance).sum(-1, keepdim=True)
    for ratio in RATIOS:
        scale = (spanning * ratio).to(SCALE_DTYPE).float()
        difference = _numbers(exact, scale) * scale - exact
        error = (difference.square() * importance).sum(-1, keepdim=True)
        best_scale = torch.where(error < best_error, scale, best_scale)
        best_error = torch.minimum(error, best_error)
    return _numbers(exact, best_scale), best_scale.squeeze(-1).to(SCALE_DTYPE)


def _numbers(exact: Tensor, scale: Tensor) -> Tensor:
    safe = torch.where(scale == 0, SMALLEST_SCALE, scale)
    return torch.round(exact / safe).clamp_(-OFFSET, OFFSET - 1)


def pack(numbers: Tensor) -> Tensor:
    """numbers [out, groups, group] -> uint8 [out, groups, group / 2], as kernels/int4_unpack.py has them."""
    low, high = (numbers + OFFSET).to(torch.uint8).chunk(2, dim=-1)
    return low | (high << 4)


def unpack(packed: Tensor, num_groups: int) -> Tensor:
    """uint8 [out, in / 2] -> float32 numbers [out, groups, group]."""
    pairs = packed.view(len(packed), num_groups, -1)
    return torch.cat([pairs & 15, pairs >> 4], dim=-1).float() - OFFSET


def dequantize(packed: Tensor, scale: Tensor) -> Tensor:
    """Packed numbers and scales -> the float32 weight [out, in]."""
    numbers = unpack(packed, len(scale))
    return (numbers * scale.t().float().unsqueeze(-1)).flatten(1)


class Int4Linear(QuantizedLinear):
    """A linear layer whose weight is int4, two numbers to a byte."""

    PARAMETERS = ("weight", "weight_scale")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool,
        dtype: torch.dtype,
        is_quantized: bool,
        device: torch.device,
    ) -> None:
        super().__init__(in_features, out_features)
        num_groups = in_features // group_of(in_features)
        empty = (
            torch.empty(out_features, in_features // 2, dtype=torch.uint8, device=device)
            if is_quantized
            else torch.empty(out_features, in_features, dtype=dtype, device=device)
        )
        self.weight = frozen(empty)
        # A group's scales lie side by side, as a GPU reads them: columns, not rows, are output channels.
        self.weight_scale = frozen(torch.empty(num_groups, out_features, dtype=SCALE_DTYPE, device=device))
        self.bias = frozen(torch.empty(out_features, dtype=dtype, device=device)) if bias else None

    @classmethod
    def placeholder(cls, linear: nn.Linear, *, is_quantized: bool, device: torch.device) -> Self:
        return cls(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            dtype=linear.weight.dtype,
            is_quantized=is_quantized,
            device=device,
        )

    @staticmethod
    def quantize(weight: Tensor) -> dict[str, Tensor]:
        return dict(zip(Int4Linear.PARAMETERS, quantize(weight), strict=True))

    def exact_weight(self) -> Tensor:
        return dequantize(self.weight, self.weight_scale)

    def forward(self, x: Tensor) -> Tensor:
        product = self._product(x)
        return product if self.bias is None else product + self.bias

    def _product(self, x: Tensor) -> Tensor:
        if x.is_cuda:
            from inference.quantization import weight_only_cuda

            if x.dtype in weight_only_cuda.DTYPES:
                return weight_only_cuda.multiply_int4(x, self.weight, self.weight_scale)
        return linear(x.float(), self.exact_weight()).to(x.dtype)  # the reference, on every device

    @classmethod
    def join_parameter(cls, name: str, parameters: Sequence[Any]) -> Tensor:
        if name == "weight_scale":
            return join_columns(parameters)
        return super().join_parameter(name, parameters)


@register_quantization_config(METHOD)
class Int4Config(LinearConfig):
    """int4 weights. `group_size` is recorded in the file; no other than GROUP is made.

    `importance`, by the layer's name, is used while quantizing and not saved.
    """

    METHOD: ClassVar[str] = METHOD

    def __init__(
        self,
        modules_to_not_convert: list[str] | None = None,
        quantize_head: bool = False,
        group_size: int = GROUP,
        importance: Mapping[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(modules_to_not_convert, quantize_head, **kwargs)
        if group_size != GROUP:
            raise CannotQuantize(f"group_size of int4 is {GROUP} here, not {group_size}: quantize it anew")
        self.group_size = group_size
        self.importance = dict(importance or {})

    def to_dict(self) -> dict[str, Any]:
        kept: dict[str, Any] = super().to_dict()
        del kept["importance"]
        return kept


@register_quantizer(METHOD)
class Int4Quantizer(LinearQuantizer):
    """Replaces linear layers by `Int4Linear`."""

    LINEAR = Int4Linear

    def quantize_weight(self, name: str, weight: Tensor) -> dict[str, Tensor]:
        importance = self.quantization_config.importance.get(name)
        return dict(zip(Int4Linear.PARAMETERS, quantize(weight, importance), strict=True))
