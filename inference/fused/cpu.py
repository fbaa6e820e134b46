"""A model with fewer operations for CPUs, where calling one costs as much as what it computes.

One product for queries, keys and values, one for gate and up; the rotary embedding, the residual and the gate
in place. Weights are not copied twice: the model's own layers become views of the joined ones, so that
transformers' forward stays there as the oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inference.attention.base import AttentionBackend, AttentionParameters
from inference.attention.cpu import CpuAttention
from inference.cpu import compiler
from inference.fused.bf16_linear import PackedLinear
from inference.fused.int4_blocked import BlockedInt4Linear
from inference.fused.supported import epsilon, layer_window
from inference.fused.weight_layout import join_input_major
from inference.quantization.int8 import Int8Linear
from inference.quantization.int8_matmul import FastestMatmul
from inference.quantization.linear import StoredLinear, join_rows
from inference.quantization.w8a8 import W8A8Linear

if TYPE_CHECKING:
    from inference.fused.cpu_compiled import CompiledLayers

Product = Callable[[Tensor], Tensor]  # [num_tokens, in] -> [num_tokens, out]


@dataclass(frozen=True, slots=True)
class Norm:
    """An RMS norm."""

    weight: Tensor
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        """In the dtype of the weight; `x` may be float32."""
        if x.dtype == self.weight.dtype:
            return F.rms_norm(x, self.weight.shape, self.weight, self.epsilon)
        return F.rms_norm(x, self.weight.shape, None, self.epsilon).mul_(self.weight).to(self.weight.dtype)


@dataclass(frozen=True, slots=True)
class CpuFusedLayer:
    """A decoder layer's joined weights, norms and attention settings."""

    index: int
    input_norm: Norm
    post_norm: Norm
    qkv: Product  # width -> (num_heads + 2 * num_kv_heads) * head_dim
    o: Product
    gate_up: Product  # width -> 2 * intermediate
    down: Product
    head_norms: tuple[Norm, Norm] | None  # of queries and keys, where the family has them
    attention_parameters: AttentionParameters


class CpuFusedModel:
    """Runs a packed batch through a fused model: called in inference mode, with any attention backend."""

    def __init__(self, model: Any) -> None:
        self.model = model
        config = model.config.get_text_config()
        self.num_heads: int = config.num_attention_heads
        self.num_kv_heads: int = config.num_key_value_heads
        self.layers = [fuse_cpu_layer(layer, index) for index, layer in enumerate(model.model.layers)]
        self.norm = norm_of(model.model.norm)
        self.compiled = compiled_layers(model, self.layers)
        self.head = head_product(model.lm_head) if self.compiled else cpu_product([model.lm_head])

    def __call__(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        *,
        logit_rows: Tensor | None,
        attention: AttentionBackend,
    ) -> Tensor:
        """Logits `[num_rows, vocab]` of the tokens [num_tokens] that `logit_rows` names; of all for None."""
        body = self.model.model
        x = body.embed_tokens(input_ids)
        cos, sin = body.rotary_emb(x[None], position_ids=position_ids[None])
        if self.compiled is not None and isinstance(attention, CpuAttention):
            self.compiled(x, cos[0], sin[0], attention.cache, attention.metadata)
            return self.head(self.norm(x if logit_rows is None else x[logit_rows]))
        rotary = cos[0, :, None], signed_sin(sin[0])[:, None]  # [num_tokens, 1, head_dim]
        x = x.float()  # what all layers add to: of 8 bits, each addition would round what all before it said
        for layer in self.layers:
            x += self._attention(layer, layer.input_norm(x), rotary, attention)
            x += self._feed_forward(layer, layer.post_norm(x))
        return self.head(self.norm(x if logit_rows is None else x[logit_rows]))

    def _attention(
        self, layer: CpuFusedLayer, x: Tensor, rotary: tuple[Tensor, Tensor], attention: AttentionBackend
    ) -> Tensor:
        num_tokens, num_rotated = len(x), self.num_heads + self.num_kv_heads
        heads = layer.qkv(x).view(num_tokens, num_rotated + self.num_kv_heads, -1)
        rotated, value = heads[:, :num_rotated], heads[:, num_rotated:]
        query, key = rotated[:, : self.num_heads], rotated[:, self.num_heads :]
        if layer.head_norms:
            query.copy_(layer.head_norms[0](query))
            key.copy_(layer.head_norms[1](key))
        cos, sin = rotary
        halves_swapped = rotated.roll(rotated.shape[-1] // 2, -1)
        rotated.mul_(cos).addcmul_(halves_swapped, sin)
        attention.write(layer.index, key, value)
        out = attention.attend(layer.index, query, key, value, layer.attention_parameters)
        return layer.o(out.reshape(num_tokens, -1))

    @staticmethod
    def _feed_forward(layer: CpuFusedLayer, x: Tensor) -> Tensor:
        gate, up = layer.gate_up(x).chunk(2, dim=-1)
        return layer.down(F.silu(gate).mul_(up))


def compiled_layers(model: Any, layers: list[CpuFusedLayer]) -> CompiledLayers | None:
    """The layers as compiled code; None where weights are of another kind, or nothing can be compiled."""
    if not can_compile(model) or not compiler.works():  # in this order: the second loads a compiler
        return None
    from inference.fused.cpu_compiled import CompiledLayers

    return CompiledLayers(model, layers)


def can_compile(model: Any) -> bool:
    """True if all layers compute in float32 with weights that compiled code reads, multiplied by default."""
    return all(
        layer.input_layernorm.weight.dtype == torch.float32 and all(map(_is_compiled, _linears(layer)))
        for layer in model.model.layers
    )


def _linears(layer: Any) -> tuple[Any, ...]:
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    return (*projections, mlp.gate_proj, mlp.up_proj, mlp.down_proj)


def _is_compiled(linear: Any) -> bool:
    if type(linear) in (PackedLinear, BlockedInt4Linear):
        return True
    if type(linear) is W8A8Linear:
        return linear.keeps_activations
    return type(linear) is Int8Linear and isinstance(linear.matmul, FastestMatmul)


def head_product(linear: Any) -> Product:
    """The head beside compiled layers: compiled as well, where its weight allows, so that its sums do not
    depend on how many rows it is given. The ways that are measured for int8 differ by that number.
    """
    if not (isinstance(linear, Int8Linear) and _is_compiled(linear)):
        return cpu_product([linear])
    from inference.cpu.matmul_single import multiply

    assert isinstance(linear.matmul, FastestMatmul)
    weight, scale, bias = linear.weight, linear.weight_scale.reshape(-1), linear.bias
    rounds = linear.matmul.rounds
    if bias is None:
        return lambda x: multiply(x, weight, scale, rounds=rounds)
    return lambda x: multiply(x, weight, scale, rounds=rounds) + bias


def signed_sin(sin: Tensor) -> Tensor:
    """sin with the first half negated, so that rotation needs only a swap of halves."""
    first, second = sin.chunk(2, dim=-1)
    return torch.cat((-first, second), dim=-1)


def fuse_cpu_layer(layer: Any, index: int) -> CpuFusedLayer:
    """Join the layer's weights; its own modules then look at parts of the joined ones."""
    attention, mlp = layer.self_attn, layer.mlp
    norms = None
    if hasattr(attention, "q_norm"):
        norms = norm_of(attention.q_norm), norm_of(attention.k_norm)
    return CpuFusedLayer(
        index=index,
        input_norm=norm_of(layer.input_layernorm),
        post_norm=norm_of(layer.post_attention_layernorm),
        qkv=cpu_product([attention.q_proj, attention.k_proj, attention.v_proj]),
        o=cpu_product([attention.o_proj]),
        gate_up=cpu_product([mlp.gate_proj, mlp.up_proj]),
        down=cpu_product([mlp.down_proj]),
        head_norms=norms,
        attention_parameters=AttentionParameters(attention.scaling, window=layer_window(attention)),
    )


def norm_of(norm: Any) -> Norm:
    return Norm(norm.weight, epsilon(norm))


def cpu_product(linears: list[Any]) -> Product:
    """One product for several layers of the same input, which become views of its weight and bias."""
    first = linears[0]
    if isinstance(first, StoredLinear):
        return (type(first).joined(linears) if len(linears) > 1 else first).product()
    assert isinstance(first, nn.Linear)
    weight = join_input_major([linear.weight for linear in linears])
    bias = None if first.bias is None else join_rows([linear.bias for linear in linears])
    return partial(F.linear, weight=weight, bias=bias)
