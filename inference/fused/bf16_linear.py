"""Weights of bfloat16 files on CPUs that compute in float32: they stay 16 bits wide, nothing of them is lost.

A float32 copy would be read at every token, twice as many bytes of the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.architectures import can_keep_bf16
from inference.checkpoints.safetensors_header import read_header
from inference.cpu import compiler
from inference.cpu.packing import BLOCK, empty_packed, outputs, pack, unpack
from inference.fused.supported import can_fuse
from inference.quantization.linear import Stored, StoredLinear, frozen

TOGETHER = (  # part of a layer, and its linear layers of the same input
    ("self_attn", ("q_proj", "k_proj", "v_proj")),
    ("self_attn", ("o_proj",)),
    ("mlp", ("gate_proj", "up_proj")),
    ("mlp", ("down_proj",)),
)


class PackedLinear(StoredLinear):
    """A linear layer whose weight is bfloat16 and packed, for float32 activations."""

    PARAMETERS: ClassVar[tuple[str, ...]] = ("weight",)
    weight: nn.Parameter  # bfloat16 [ceil(out / 32), in, 32]

    @classmethod
    def of(cls, linear: nn.Linear, *, into: Tensor | None = None) -> Self:
        """The same layer packed."""
        packed = cls(linear.in_features, linear.out_features)
        packed.weight = frozen(pack(linear.weight.data, into=into))
        if linear.bias is not None:
            packed.bias = frozen(linear.bias.data.float())
        return packed

    def exact_weight(self) -> Tensor:
        return unpack(self.weight, self.out_features).float()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        return self.product()(rows).view(*x.shape[:-1], self.out_features)

    def product(self) -> Callable[[Tensor], Tensor]:
        from inference.cpu.matmul_single import multiply_bf16

        weight, bias, num_outputs = self.weight, self.bias, self.out_features

        def multiply(x: Tensor) -> Tensor:
            exact = multiply_bf16(x, weight, num_outputs)
            return (exact if bias is None else exact + bias).to(x.dtype)

        return multiply


class PackedHead(PackedLinear):
    """The output head of a model that computes in bfloat16: its logits are float32.

    Rounded to bfloat16, logits between 16 and 32 lie 0.125 apart, which is then the least by which
    log-probabilities differ where they differ at all.
    """

    def product(self) -> Callable[[Tensor], Tensor]:
        multiply = super().product()
        return lambda x: multiply(x.float())


class Bf16Embedding(Stored):
    """A bfloat16 embedding with rows in `dtype`; packed where the head shares its weight."""

    def __init__(
        self,
        weight: nn.Parameter,
        *,
        num_rows: int,
        is_packed: bool,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.weight = weight
        self._num_rows, self._is_packed, self._dtype = num_rows, is_packed, dtype

    def exact_weight(self) -> Tensor:
        return unpack(self.weight, self._num_rows).float() if self._is_packed else self.weight.float()

    def forward(self, token_ids: Tensor) -> Tensor:
        """Rows [..., width]."""
        rows = outputs(self.weight, token_ids) if self._is_packed else F.embedding(token_ids, self.weight)
        return rows.to(self._dtype)


def can_load_as_bf16(architectures: Sequence[str] | None, files: Iterable[Path]) -> bool:
    """True for bfloat16 files of a known family on a CPU whose compiled code reads them."""
    headers = (read_header(path) for path in files if path.suffix == ".safetensors")
    tensors = [(one.name, one.dtype) for header in headers for one in header.values()]
    architecture = architectures[0] if architectures else ""
    return can_keep_bf16(architecture, tensors) and compiler.works()  # which is loaded for it, if needed


def upcast_or_pack(model: Any) -> None:
    """Packs the matrices of a model read as bfloat16 and upcasts the rest to float32; upcasts all where the
    layers cannot be fused.
    """
    if can_fuse(model) and all(_fits(linear) for linear in _linears(model.model.layers)):
        _pack_all(model)
    kept = {id(parameter) for parameter in _stored(model)}
    for parameter in model.parameters():
        if parameter.dtype == torch.bfloat16 and id(parameter) not in kept:
            parameter.data = parameter.data.float()


def pack_head(model: Any) -> None:
    """Packs the head of a model that computes in bfloat16 on a CPU; its sums then stay float32.

    An embedding of another class that shares the head's weight would have to be kept twice: there it stays.
    """
    head, rows = model.get_output_embeddings(), model.get_input_embeddings()
    if type(head) is not nn.Linear or head.weight.dtype != torch.bfloat16:
        return
    is_tied = head.weight is rows.weight
    if (is_tied and type(rows) is not nn.Embedding) or not compiler.works():
        return
    packed = PackedHead.of(head)
    model.set_output_embeddings(packed)
    if is_tied:
        narrow = Bf16Embedding(
            packed.weight, num_rows=rows.num_embeddings, is_packed=True, dtype=torch.bfloat16
        )
        model.set_input_embeddings(narrow)


def _stored(model: Any) -> Iterator[nn.Parameter]:
    """Parameters whose form is that of their layer."""
    for module in model.modules():
        if isinstance(module, StoredLinear):
            yield from (getattr(module, name) for name in module.PARAMETERS)
        elif isinstance(module, Bf16Embedding):
            yield module.weight


def _linears(module: nn.Module) -> Iterator[nn.Linear]:
    return (one for one in module.modules() if type(one) is nn.Linear)


def _fits(linear: nn.Linear) -> bool:
    """True if its outputs fill whole blocks, so that it can be joined with others."""
    return linear.out_features % BLOCK == 0


def _pack_all(model: Any) -> None:
    body, head = model.model, model.lm_head
    is_tied = head.weight is body.embed_tokens.weight
    for layer in body.layers:
        for part, names in TOGETHER:
            _pack_together(getattr(layer, part), names)
    if type(head) is nn.Linear:
        model.lm_head = PackedLinear.of(head)
    rows = body.embed_tokens
    weight = model.lm_head.weight if is_tied else rows.weight
    body.embed_tokens = Bf16Embedding(weight, num_rows=rows.num_embeddings, is_packed=is_tied)


def _pack_together(part: nn.Module, names: Sequence[str]) -> None:
    """Layers of the same input one behind the other, so that joining them copies nothing."""
    linears = [(name, one) for name in names if type(one := getattr(part, name)) is nn.Linear]
    if not linears:
        return
    whole = empty_packed(sum(one.out_features for _, one in linears), linears[0][1].in_features)
    done = 0
    for name, one in linears:
        end = done + one.out_features // BLOCK
        setattr(part, name, PackedLinear.of(one, into=whole[done:end]))
        done = end
