"""The layers of a fused model of int8, int4 or packed weights, as `inference.cpu` computes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from inference.attention.base import Cache, Layout
from inference.cpu import step
from inference.cpu.attention import HEADS, STRETCH, num_shares, partial_floats, scratch_floats
from inference.cpu.products import (
    ALIGNMENT,
    EXACT,
    INT4_EXACT,
    INT4_ROUNDED,
    OWN_FLOATS,
    PACKED,
    PRODUCT,
    ROUNDED,
)
from inference.cpu.teamwork import Crew
from inference.models.blocked_int4 import BlockedInt4Linear
from inference.models.packed import PackedLinear
from inference.quantization.int8 import Int8Linear
from inference.quantization.int8_matmul import Fastest

if TYPE_CHECKING:
    from inference.models.fuse_cpu import FusedLayer

Records = npt.NDArray[np.void]


class CompiledLayers:
    """All decoder layers in one call. Keeps alive what the records below hold addresses of."""

    def __init__(self, model: Any, layers: Sequence[FusedLayer]) -> None:
        config = model.config.get_text_config()
        attention = model.model.layers[0].self_attn
        self.heads = np.zeros(1, dtype=HEADS)
        self.heads[0] = (config.num_attention_heads, config.num_key_value_heads, attention.head_dim, 0)
        self.products = np.zeros((len(layers), 4), dtype=PRODUCT)
        self.layers = np.zeros(len(layers), dtype=step.LAYER)
        self._kept: list[Tensor] = []
        for index, (own, fused) in enumerate(zip(model.model.layers, layers, strict=True)):
            self._add(index, own, fused)
        self.crew = Crew()

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache, layout: Layout) -> None:
        """Runs float32 x [num_tokens, width] through all layers, in place; cos and sin [.., head_dim]."""
        num_threads = torch.get_num_threads()
        heads, layers = self.heads.copy(), self.layers.copy()
        heads["block_size"] = cache.block_size
        layers["keys"] = [_address(pool) for pool in cache.keys]
        layers["values"] = [_address(pool) for pool in cache.values]
        stretches, kept = self._stretches(layout, heads)
        job, room = self._job(x, num_threads, heads)
        cos, sin, slots = cos.contiguous(), sin.contiguous(), layout.slots.contiguous()
        job["x"], job["cos"], job["sin"], job["slots"] = map(_address, (x, cos, sin, slots))
        self.crew.run(
            step.run, job, heads, layers, self.products, stretches,
            num_phases=len(layers) * step.NUM_PHASES, num_threads=num_threads,
        )  # fmt: skip
        del kept, room  # alive until here: only their addresses were passed on

    def _add(self, index: int, own: Any, fused: FusedLayer) -> None:
        attention, mlp = own.self_attn, own.mlp
        together = (
            [attention.q_proj, attention.k_proj, attention.v_proj],
            [attention.o_proj],
            [mlp.gate_proj, mlp.up_proj],
            [mlp.down_proj],
        )
        for place, linears in enumerate(together):
            whole = type(linears[0]).joined(linears)
            self.products[index, place] = self._product(whole, adds=place in step.ADDING)
        norms = fused.head_norms
        record = self.layers[index]
        record["input_norm"] = self._keep(fused.input_norm.weight)
        record["post_norm"] = self._keep(fused.post_norm.weight)
        record["query_norm"], record["key_norm"] = (
            (self._keep(norm.weight) for norm in norms) if norms else (0, 0)
        )
        record["input_epsilon"], record["post_epsilon"] = fused.input_norm.epsilon, fused.post_norm.epsilon
        record["head_epsilon"] = norms[0].epsilon if norms else 0.0
        record["scaling"], record["window"] = fused.scaling, fused.window or 0

    def _product(
        self, linear: Int8Linear | BlockedInt4Linear | PackedLinear, *, adds: bool
    ) -> tuple[int, ...]:
        bias = 0 if linear.bias is None else self._keep(linear.bias)
        scale, group, kind = 0, 0, PACKED
        if isinstance(linear, BlockedInt4Linear):
            scale, group = self._keep(linear.weight_scale), linear.in_features // linear.weight_scale.shape[1]
            kind = INT4_ROUNDED if linear.rounds else INT4_EXACT
        elif isinstance(linear, Int8Linear):
            assert isinstance(linear.matmul, Fastest)
            scale, kind = self._keep(linear.weight_scale), ROUNDED if linear.matmul.rounds else EXACT
        weight, shape = self._keep(linear.weight), (linear.out_features, linear.in_features)
        return (weight, scale, bias, *shape, group, kind, int(adds))

    def _keep(self, tensor: Tensor) -> int:
        self._kept.append(tensor)
        return _address(tensor)

    def _stretches(self, layout: Layout, heads: Records) -> tuple[Records, list[object]]:
        """The stretches as records, and what these hold addresses of."""
        stretches = np.zeros(len(layout.stretches), dtype=STRETCH)
        tables = [np.asarray(stretch.block_table, dtype=np.int64) for stretch in layout.stretches]
        share, room = 0, 0
        for record, stretch, table in zip(stretches, layout.stretches, tables, strict=True):
            num_blocks = -(-stretch.kv_len // int(heads["block_size"][0]))
            assert len(table) >= num_blocks
            values = (stretch.offset, stretch.num_tokens, stretch.kv_len, table.ctypes.data, share, 4 * room)
            for name, value in zip(STRETCH.names or (), values, strict=True):
                record[name] = value
            share += num_shares(record, heads[0])
            room += partial_floats(record, heads[0])
        partials = torch.empty(room)
        stretches["partials"] += partials.data_ptr()
        return stretches, [*tables, partials]

    def _job(self, x: Tensor, num_threads: int, heads: Records) -> tuple[Records, Tensor]:
        """A job of so many tokens and threads, and the room that its addresses point to."""
        num_tokens = len(x)
        widest = int(self.products["num_inputs"].max())
        sizes = {
            "rows": num_tokens * (widest * 4 + ALIGNMENT),
            "scales": num_tokens * 4,
            "wide": num_tokens * int(self.products["num_outputs"].max()) * 4,
            "mixed": num_tokens * int(heads["num_heads"][0] * heads["head_dim"][0]) * 4,
        }
        own_bytes = _aligned(4 * max(widest, OWN_FLOATS, scratch_floats(heads[0])))
        total = sum(map(_aligned, sizes.values())) + num_threads * own_bytes
        room = torch.empty(total + ALIGNMENT, dtype=torch.uint8)
        job = np.zeros(1, dtype=step.JOB)
        job["num_tokens"], job["num_threads"], job["own_bytes"] = num_tokens, num_threads, own_bytes
        place = _aligned(room.data_ptr())
        for name, size in sizes.items():
            job[name] = place
            place += _aligned(size)
        job["own"] = place
        return job, room


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _address(tensor: Tensor) -> int:
    assert tensor.is_contiguous()
    return tensor.data_ptr()
