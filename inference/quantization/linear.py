"""Base classes of linear layers with stored (packed, quantized) weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn


class Stored(nn.Module, ABC):
    """A layer that stores its weight in another form than float [out, in]."""

    @abstractmethod
    def exact_weight(self) -> Tensor:
        """The float32 weight that the layer stands for, of a linear one [out, in]."""


class StoredLinear(Stored):
    """A linear layer with a stored weight, and a bias."""

    PARAMETERS: ClassVar[tuple[str, ...]]  # all but the bias

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.bias: nn.Parameter | None = None

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out], in the dtype of x."""

    def activation_dtype(self, num_rows: int) -> torch.dtype | None:
        """The dtype to quantize `num_rows` activations to before `forward`; None: floats, as is."""
        return None

    def allow_rounding(self) -> None:
        """Let CPUs round float32 activations to 15 bits, or to bfloat16, where the layer is faster then."""

    def product(self) -> Callable[[Tensor], Tensor]:
        """`forward` as a plain function, without the overhead of calling a module."""
        return self.forward

    @classmethod
    def joined(cls, linears: Sequence[Any]) -> Self:
        """One layer for several of the same input, whose parameters become views of its own."""
        first = linears[0]
        whole: Self = cls.__new__(cls)
        nn.Module.__init__(whole)
        whole.__dict__.update(
            {name: value for name, value in vars(first).items() if not name.startswith("_")}
        )
        whole.out_features = sum(linear.out_features for linear in linears)
        for name in cls.PARAMETERS:
            setattr(whole, name, frozen(cls.join_parameter(name, [getattr(one, name) for one in linears])))
        whole.bias = None
        if first.bias is not None:
            whole.bias = frozen(join_rows([linear.bias for linear in linears]))
        return whole.eval()

    @classmethod
    def join_parameter(cls, name: str, parameters: Sequence[Any]) -> Tensor:
        """One of PARAMETERS for the joined layer: rows are output channels unless overridden."""
        return join_rows(parameters)


class QuantizedLinear(StoredLinear):
    """A linear layer with a quantized weight: its parameters as in the file, and a bias.

    While a float file is quantized on load, `weight` is a float placeholder: up to transformers 5.17 a tensor
    is cast to its placeholder's dtype BEFORE the quantize operation sees it, and int8 would turn it to zeros.
    """

    @classmethod
    @abstractmethod
    def placeholder(cls, linear: nn.Linear, *, is_quantized: bool, device: torch.device) -> Self:
        """An empty layer for a file that is quantized, or is to be while it loads."""

    @staticmethod
    @abstractmethod
    def quantize(weight: Tensor) -> dict[str, Tensor]:
        """A float weight [out, in] as the tensors of PARAMETERS, by name."""


class ChannelQuantizedLinear(QuantizedLinear):
    """A weight of `WEIGHT_DTYPE` [out, in] with a float32 scale per output channel [out, 1]."""

    PARAMETERS = ("weight", "weight_scale")
    WEIGHT_DTYPE: ClassVar[torch.dtype]
    weight: nn.Parameter
    weight_scale: nn.Parameter

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool,
        dtype: torch.dtype,
        weight_dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(in_features, out_features)
        self.weight = frozen(torch.empty(out_features, in_features, dtype=weight_dtype, device=device))
        self.weight_scale = frozen(torch.empty(out_features, 1, dtype=torch.float32, device=device))
        self.bias = frozen(torch.empty(out_features, dtype=dtype, device=device)) if bias else None

    @classmethod
    def placeholder(cls, linear: nn.Linear, *, is_quantized: bool, device: torch.device) -> Self:
        dtype = linear.weight.dtype
        return cls(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            dtype=dtype,
            weight_dtype=cls.WEIGHT_DTYPE if is_quantized else dtype,
            device=device,
        )

    def exact_weight(self) -> Tensor:
        return self.weight.float() * self.weight_scale


def allow_rounding(model: nn.Module) -> None:
    """Let all layers of a model round activations on CPUs.

    For those who left the dtype to us; a float32 that was asked for stays exact.
    """
    for module in model.modules():
        if isinstance(module, StoredLinear):
            module.allow_rounding()


def frozen(tensor: Tensor) -> nn.Parameter:
    """A parameter without a gradient."""
    return nn.Parameter(tensor, requires_grad=False)


def join_rows(parameters: Sequence[Any]) -> Tensor:
    """The parameters' rows in one tensor, of which they become views; the one that they share, if they do."""
    tensors: list[Tensor] = [parameter.data for parameter in parameters]
    num_rows = sum(tensor.shape[0] for tensor in tensors)
    first = tensors[0]
    if all(follows(before, after) for before, after in pairwise(tensors)):
        return first.as_strided((num_rows, *first.shape[1:]), first.stride())
    joined = torch.cat(tensors)
    done = 0
    for parameter in parameters:
        end = done + parameter.shape[0]
        parameter.data = joined[done:end]
        done = end
    return joined


def join_columns(parameters: Sequence[Any]) -> Tensor:
    """As `join_rows`, of the columns of matrices."""
    tensors: list[Tensor] = [parameter.data for parameter in parameters]
    num_columns = sum(tensor.shape[1] for tensor in tensors)
    first = tensors[0]
    if all(is_beside(before, after) for before, after in pairwise(tensors)):
        return first.as_strided((len(first), num_columns), first.stride())
    joined = torch.cat(tensors, dim=1)
    for parameter, part in zip(
        parameters, torch.split(joined, [tensor.shape[1] for tensor in tensors], dim=1), strict=True
    ):
        parameter.data = part
    return joined


def is_beside(before: Tensor, after: Tensor) -> bool:
    """True if the rows of `after` go on where those of `before` end."""
    is_same_storage = before.untyped_storage().data_ptr() == after.untyped_storage().data_ptr()
    is_next = after.data_ptr() == before.data_ptr() + before.shape[1] * before.element_size()
    return is_same_storage and is_next and before.stride() == after.stride() and before.stride(1) == 1


def follows(before: Tensor, after: Tensor) -> bool:
    """True if `after` lies right behind `before` in the same memory."""
    is_same_storage = before.untyped_storage().data_ptr() == after.untyped_storage().data_ptr()
    return is_same_storage and after.data_ptr() == before.data_ptr() + before.nbytes
