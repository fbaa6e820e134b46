"""Runs steps on an NVIDIA GPU: pure decode replays a CUDA graph, whatever else is launched as it comes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from inference.attention.split_kv import SplitKV, fixed_part
from inference.attention.triton import TritonAttention
from inference.checkpoints.model_folder import CannotLoad
from inference.execution.cuda.batch import CudaBatch, decode_numbers, num_decode_rows, pack_mixed
from inference.execution.cuda.block_tables import BlockTables, num_table_rows
from inference.execution.cuda.decode_graphs import DecodeGraphs
from inference.execution.cuda.pinned_buffer import PinnedBuffer
from inference.execution.kv_cache import KVCache
from inference.fused.batch_invariant import InvariantProductFactory
from inference.fused.gpu import GpuFusedModel
from inference.fused.supported import can_fuse
from inference.kernels.layer import fill_pending
from inference.kernels.prefill_attention import tokens_per_tile
from inference.models.loader import LoadedModel
from inference.scheduling.batch_invariance import ORDINARY, ChunkAlignment, ChunkPolicy
from inference.scheduling.step_input import StepInput


class CudaRunner:
    """A loaded model with its KV pool, and one block more for the rows that pad a graph."""

    chunk_policy: ChunkPolicy = ORDINARY  # how the scheduler is to cut what runs here

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        num_blocks: int,
        block_size: int,
        max_num_seqs: int,
        max_batch_tokens: int,
        max_model_len: int,
        kv_dtype: torch.dtype | None = None,  # None: the model's
        num_draft_rows: int = 0,  # that a step may have beside those of its sequences
        fuses: bool = True,
        is_invariant: bool = False,
        logits_dtype: torch.dtype | None = None,  # None: the model's
    ) -> None:
        self.loaded = loaded
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.cache = KVCache(
            loaded.text_config,
            num_blocks=num_blocks + 1,
            block_size=block_size,
            dtype=kv_dtype or loaded.dtype,
            device=loaded.device,
        )
        max_blocks = -(-min(max_model_len, num_blocks * block_size) // block_size)
        self.tables = BlockTables(
            num_rows=num_table_rows(max_num_seqs), max_blocks=max_blocks + 1, device=loaded.device
        )
        self.last_tokens = torch.zeros(len(self.tables.tensor), dtype=torch.int32, device=loaded.device)
        config = loaded.text_config
        num_kv_heads = self.cache.keys[0].shape[1]
        self._split_kv = SplitKV(
            num_kv_heads=num_kv_heads,
            num_multiprocessors=torch.cuda.get_device_properties(loaded.device).multi_processor_count,
            max_keys=max_blocks * block_size,
            fixed=fixed_part(max_model_len) if is_invariant else None,
        )
        max_decode_rows = min(max_num_seqs + num_draft_rows, max_batch_tokens)
        num_items = self._split_kv.num_items(max_decode_rows)
        self._buffer = PinnedBuffer(
            size=8 * max_batch_tokens + 16 * max_num_seqs + 4 * num_items + 1024, device=loaded.device
        )
        self._is_invariant = is_invariant
        self._tokens_per_tile = tokens_per_tile(config.num_attention_heads // num_kv_heads)
        if is_invariant:
            self.chunk_policy = ChunkAlignment(math.lcm(block_size, self._tokens_per_tile))
        self._fused = fused_model(loaded, fuses=fuses, is_invariant=is_invariant, logits_dtype=logits_dtype)
        self._graphs = DecodeGraphs(
            self._forward,
            self.tables.tensor,
            self._split_kv,
            max_batch=max_decode_rows,
            vocab_size=loaded.vocab_size,
            spare_slot=num_blocks * block_size,
            dtype=logits_dtype or loaded.dtype,
        )

    @torch.inference_mode()
    def capture(self) -> Iterator[int]:
        """Make the graphs one by one, the largest first; yields each time how many there will be."""
        for _ in self._graphs.capture():
            yield len(self._graphs.sizes)

    @torch.inference_mode()
    def run(self, step: StepInput) -> Tensor:
        """Logits `[num_sampling, vocab]` in the chunks' order, good until the next run."""
        return self.start(step)[0]

    @torch.inference_mode()
    def score(self, step: StepInput) -> Tensor:
        """As `run`, but the logits after every token of the step: to measure, not to serve."""
        return self._forward(replace(self._packed(step), logit_rows=None))

    @torch.inference_mode()
    def start(self, step: StepInput) -> tuple[Tensor, Tensor]:
        """Logits, as `run` gives them, and the places in `last_tokens` of the sequences that they are of."""
        num_rows = step.num_chunks
        is_decode = self._num_decode(step) == num_rows and all(step.samples)
        if is_decode and self._graphs.fits(num_rows):
            table_rows = self.tables.rows_of(step.table_ids, step.block_tables)
            self.tables.flush()
            return self._graphs.run(decode_numbers(step, table_rows, num_rows, self.block_size))
        batch = self._packed(step)
        return self._forward(batch), batch.table_rows

    @torch.inference_mode()
    def zero_blocks(self, block_ids: Sequence[int]) -> None:
        """Zero blocks that may hold NaN: attention masks what lies past the end, but 0 x NaN is NaN."""
        self.cache.zero(block_ids)

    def _packed(self, step: StepInput) -> CudaBatch:
        return pack_mixed(
            step,
            self.tables,
            self._buffer,
            self._split_kv,
            num_decode=self._num_decode(step),
            block_size=self.block_size,
            tokens_per_tile=self._tokens_per_tile,
        )

    def _num_decode(self, step: StepInput) -> int:
        return num_decode_rows(step, is_invariant=self._is_invariant)

    def _forward(self, batch: CudaBatch) -> Tensor:
        num_decode = batch.paged.num_decode
        if num_decode:
            fill_pending(batch.input_ids[:num_decode], batch.paged.rows, self.last_tokens)
        attention = TritonAttention(self.cache, batch.paged)
        if self._fused is not None:
            return self._fused(
                batch.input_ids, batch.position_ids, logit_rows=batch.logit_rows, attention=attention
            )
        output = self.loaded.model(
            input_ids=batch.input_ids[None],
            position_ids=batch.position_ids[None],
            use_cache=False,
            logits_to_keep=0 if batch.logit_rows is None else batch.logit_rows,
            attention_backend=attention,
        )
        logits: Tensor = output.logits[0]
        return logits


def fused_model(
    loaded: LoadedModel, *, fuses: bool, is_invariant: bool, logits_dtype: torch.dtype | None = None
) -> GpuFusedModel | None:
    """The model with fewer launches, where its family is known; None: transformers' own forward."""
    if fuses and can_fuse(loaded.model):
        make_product = InvariantProductFactory() if is_invariant else None
        return GpuFusedModel(loaded.model, make_product=make_product, logits_dtype=logits_dtype)
    if is_invariant:
        raise CannotLoad(
            "batch_invariant on a GPU needs fused_layers and a family of models that can be fused; "
            "set attention to reference to run every row alone, or batch_invariant to False"
        )
    return None
