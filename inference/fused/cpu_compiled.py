"""The layers of a fused model of int8, int4 or packed weights, as `inference.cpu` computes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from inference.attention.base import AttentionMetadata, Cache
from inference.cpu import buffers, step
from inference.cpu.attention import HEADS, SEQUENCE, num_shares, partial_floats, scratch_floats
from inference.cpu.buffers import ALIGNMENT, WrongBuffer, address_of, aligned, check_below
from inference.cpu.matmul import EXACT, INT4_EXACT, INT4_ROUNDED, PACKED, PRODUCT, ROUNDED, SCRATCH_FLOATS
from inference.cpu.packing import BLOCK, group_of, num_blocks
from inference.cpu.thread_pool import WorkerPool
from inference.fused.bf16_linear import PackedLinear
from inference.fused.int4_blocked import BlockedInt4Linear
from inference.quantization.int8 import Int8Linear
from inference.quantization.int8_matmul import FastestMatmul

if TYPE_CHECKING:
    from inference.fused.cpu import CpuFusedLayer

Records = npt.NDArray[np.void]


class CompiledLayers:
    """All decoder layers in one call. Keeps alive what the records below hold addresses of."""

    def __init__(self, model: Any, layers: Sequence[CpuFusedLayer]) -> None:
        config = model.config.get_text_config()
        attention = model.model.layers[0].self_attn
        self.heads = np.zeros(1, dtype=HEADS)
        self.heads[0] = (config.num_attention_heads, config.num_key_value_heads, attention.head_dim, 0)
        self.products = np.zeros((len(layers), 4), dtype=PRODUCT)
        self.layers = np.zeros(len(layers), dtype=step.LAYER)
        self._kept: list[Tensor] = []
        self.width: int = config.hidden_size
        for index, (own, fused) in enumerate(zip(model.model.layers, layers, strict=True)):
            self._add(index, own, fused)
        self.workers = WorkerPool()

    def __call__(
        self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache, metadata: AttentionMetadata
    ) -> None:
        """Runs float32 x [num_tokens, width] through all layers, in place; cos and sin [.., head_dim]."""
        num_threads, num_tokens = torch.get_num_threads(), len(x)
        heads, layers = self.heads.copy(), self.layers.copy()
        heads["block_size"] = cache.block_size
        layers["keys"], layers["values"] = self._pools(cache)
        sequences, kept = self._sequences(metadata, heads, num_tokens=num_tokens, num_blocks=cache.num_blocks)
        job, room = self._job(num_tokens, num_threads, heads)
        cos, sin, slots = cos.contiguous(), sin.contiguous(), metadata.slots.contiguous()
        rotary = torch.float32, num_tokens, int(heads["head_dim"][0])
        job["x"] = address_of(x, "the states", torch.float32, num_tokens, self.width)
        job["cos"], job["sin"] = address_of(cos, "cosines", *rotary), address_of(sin, "sines", *rotary)
        job["slots"] = address_of(slots, "slots", torch.int64, num_tokens)
        check_below(slots.numpy(), cache.num_blocks * cache.block_size, "slot")
        self.workers.run(
            step.run, job, heads, layers, self.products, sequences,
            num_phases=len(layers) * step.NUM_PHASES, num_threads=num_threads,
        )  # fmt: skip
        del kept, room  # alive until here: only their addresses were passed on

    def _pools(self, cache: Cache) -> tuple[list[int], list[int]]:
        """Addresses of the keys and of the values of each layer."""
        _, num_kv_heads, head_dim, _ = self.heads[0].tolist()
        form = torch.float32, cache.num_blocks * cache.block_size, num_kv_heads, head_dim
        if not len(cache.keys) == len(cache.values) == len(self.layers):
            raise WrongBuffer(f"a KV pool of {len(cache.keys)} layers for a model of {len(self.layers)}")
        keys = [address_of(pool, "a pool of keys", *form) for pool in cache.keys]
        return keys, [address_of(pool, "a pool of values", *form) for pool in cache.values]

    def _add(self, index: int, own: Any, fused: CpuFusedLayer) -> None:
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
        self._check_widths(index)
        norms = fused.head_norms
        record = self.layers[index]
        record["input_norm"] = self._norm(fused.input_norm.weight, self.width)
        record["post_norm"] = self._norm(fused.post_norm.weight, self.width)
        record["query_norm"], record["key_norm"] = (
            (self._norm(norm.weight, int(self.heads["head_dim"][0])) for norm in norms) if norms else (0, 0)
        )
        record["input_epsilon"], record["post_epsilon"] = fused.input_norm.epsilon, fused.post_norm.epsilon
        record["head_epsilon"] = norms[0].epsilon if norms else 0.0
        parameters = fused.attention_parameters
        record["scaling"], record["window"] = parameters.scaling, parameters.window or 0

    def _check_widths(self, index: int) -> None:
        """Raises `WrongBuffer` unless each product of a layer gives as many numbers as the next one takes."""
        num_heads, num_kv_heads, head_dim, _ = self.heads[0].tolist()
        attended, inner = num_heads * head_dim, int(self.products[index, step.DOWN]["num_inputs"])
        wanted = [
            (self.width, attended + 2 * num_kv_heads * head_dim),
            (attended, self.width),
            (self.width, 2 * inner),
            (inner, self.width),
        ]
        found = self.products[index][["num_inputs", "num_outputs"]].tolist()
        if found != wanted:
            raise WrongBuffer(f"products of layer {index} take and give {found}, not {wanted}")

    def _product(
        self, linear: Int8Linear | BlockedInt4Linear | PackedLinear, *, adds: bool
    ) -> tuple[int, ...]:
        num_outputs, num_inputs = linear.out_features, linear.in_features
        blocks = num_blocks(num_outputs)
        scale, group = 0, 0
        if isinstance(linear, BlockedInt4Linear):
            kind = INT4_ROUNDED if linear.rounds else INT4_EXACT
            group = group_of(num_inputs, linear.weight_scale)
            weight = self._keep(linear.weight, "int4 words", torch.int32, blocks, num_inputs // 8, BLOCK)
            form = torch.bfloat16, blocks, num_inputs // group, BLOCK
            scale = self._keep(linear.weight_scale, "int4 scales", *form)
        elif isinstance(linear, Int8Linear):
            assert isinstance(linear.matmul, FastestMatmul)
            kind = ROUNDED if linear.matmul.rounds else EXACT
            weight = self._keep(linear.weight, "an int8 weight", torch.int8, num_outputs, num_inputs)
            scale = self._keep(linear.weight_scale, "int8 scales", torch.float32, num_outputs, 1)
        else:
            kind = PACKED
            weight = self._keep(linear.weight, "a packed weight", torch.bfloat16, blocks, num_inputs, BLOCK)
        bias = 0 if linear.bias is None else self._keep(linear.bias, "a bias", torch.float32, num_outputs)
        return (weight, scale, bias, num_outputs, num_inputs, group, kind, int(adds))

    def _norm(self, weight: Tensor, size: int) -> int:
        return self._keep(weight, "the weight of a norm", torch.float32, size)

    def _keep(self, tensor: Tensor, name: str, dtype: torch.dtype, *shape: int) -> int:
        self._kept.append(tensor)
        return address_of(tensor, name, dtype, *shape)

    def _sequences(
        self, metadata: AttentionMetadata, heads: Records, *, num_tokens: int, num_blocks: int
    ) -> tuple[Records, list[object]]:
        """Records of the batch's sequences, and the buffers whose addresses they hold."""
        sequences = np.zeros(len(metadata.sequences), dtype=SEQUENCE)
        tables = [np.asarray(sequence.block_table, dtype=np.int64) for sequence in metadata.sequences]
        share, room, done, block_size = 0, 0, 0, int(heads["block_size"][0])
        for record, sequence, table in zip(sequences, metadata.sequences, tables, strict=True):
            if (
                sequence.offset != done
                or not 1 <= sequence.num_tokens <= sequence.kv_len <= len(table) * block_size
            ):
                raise WrongBuffer(
                    f"{sequence.num_tokens} of {sequence.kv_len} tokens in {len(table)} blocks of "
                    f"{block_size} begin at {sequence.offset} of the batch, not at {done}"
                )
            done += sequence.num_tokens
            check_below(table, num_blocks, "block")
            own = (sequence.offset, sequence.num_tokens, sequence.kv_len, table.ctypes.data)
            for name, value in zip(SEQUENCE.names or (), (*own, share, 4 * room), strict=True):
                record[name] = value
            share += num_shares(record, heads[0])
            room += partial_floats(record, heads[0])
        if not 1 <= done == num_tokens:
            raise WrongBuffer(f"{num_tokens} tokens in sequences of {done}")
        partials = buffers.new([room], torch.float32)
        sequences["partials"] += partials.data_ptr()
        return sequences, [*tables, partials]

    def _job(self, num_tokens: int, num_threads: int, heads: Records) -> tuple[Records, Tensor]:
        """The job record, and the buffer that its addresses point into."""
        widest = int(self.products["num_inputs"].max())
        sizes = {
            "rows": num_tokens * (widest * 4 + ALIGNMENT),
            "scales": num_tokens * 4,
            "projected": num_tokens * int(self.products["num_outputs"].max()) * 4,
            "attended": num_tokens * int(heads["num_heads"][0] * heads["head_dim"][0]) * 4,
        }
        scratch_bytes = aligned(4 * max(widest, SCRATCH_FLOATS, scratch_floats(heads[0])))
        total = sum(map(aligned, sizes.values())) + num_threads * scratch_bytes
        room = buffers.new([total + ALIGNMENT], torch.uint8)
        job = np.zeros(1, dtype=step.JOB)
        job["num_tokens"], job["num_threads"], job["scratch_bytes"] = num_tokens, num_threads, scratch_bytes
        place = aligned(room.data_ptr())
        for name, size in sizes.items():
            job[name] = place
            place += aligned(size)
        job["scratch"] = place
        return job, room
