"""Runs steps through a model: one packed forward over the KV pool that it owns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from inference.attention.base import AttentionBackend, AttentionMetadata, Cache
from inference.attention.cpu import CpuAttention
from inference.attention.flashinfer import FlashInferFactory
from inference.attention.reference import ReferenceAttention
from inference.cpu import compiler
from inference.execution.batch import Batch, pack
from inference.execution.kv_cache import KVCache
from inference.fused.cpu import CpuFusedModel
from inference.fused.supported import can_fuse
from inference.models.loader import LoadedModel
from inference.scheduling.batch_invariance import ORDINARY, ChunkPolicy
from inference.scheduling.step_input import StepInput

NewAttention = Callable[[Cache, AttentionMetadata], AttentionBackend]
ATTENTIONS: dict[str, Callable[[], NewAttention]] = {
    "reference": lambda: ReferenceAttention,
    "cpu": lambda: CpuAttention,
    "flashinfer": FlashInferFactory,
}


class ModelRunner:
    """A loaded model with its KV pool."""

    chunk_policy: ChunkPolicy = ORDINARY  # how the scheduler is to cut what runs here

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        num_blocks: int,
        block_size: int,
        kv_dtype: torch.dtype | None = None,  # None: the model's
        fuses: bool = True,
    ) -> None:
        self.loaded = loaded
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.cache = KVCache(
            loaded.text_config,
            num_blocks=num_blocks,
            block_size=block_size,
            dtype=kv_dtype or loaded.dtype,
            device=loaded.device,
        )
        self._new_attention = ATTENTIONS[loaded.attention]()
        can_be_fused = loaded.device.type == "cpu" and can_fuse(loaded.model)
        self._fused = CpuFusedModel(loaded.model) if fuses and can_be_fused else None

    @property
    def is_fused(self) -> bool:
        """Whether the layers run fused, not by transformers' own forward."""
        return self._fused is not None

    @property
    def must_compile(self) -> bool:
        """Whether the first step will compile the layers, which takes longer than all else."""
        is_compiled = self._fused is not None and self._fused.compiled is not None
        return is_compiled and compiler.is_new_here()

    @torch.inference_mode()
    def run(self, step: StepInput) -> Tensor:
        """Logits `[num_sampling, vocab]` in the chunks' order; writes keys and values into their blocks."""
        batch = pack(step, block_size=self.block_size, device=self.loaded.device)
        return self._forward(batch, batch.logit_rows)

    @torch.inference_mode()
    def score(self, step: StepInput) -> Tensor:
        """As `run`, but the logits after every token of the step: to measure, not to serve."""
        return self._forward(pack(step, block_size=self.block_size, device=self.loaded.device), None)

    @torch.inference_mode()
    def zero_blocks(self, block_ids: Sequence[int]) -> None:
        """Zero blocks that may hold NaN: attention masks what lies past the end, but 0 x NaN is NaN."""
        self.cache.zero(block_ids)

    def _forward(self, batch: Batch, logit_rows: Tensor | None) -> Tensor:
        """Logits of the tokens that `logit_rows` names; of all for None."""
        attention = self._new_attention(self.cache, batch.metadata)
        if self._fused is not None:
            return self._fused(
                batch.input_ids, batch.position_ids, logit_rows=logit_rows, attention=attention
            )
        output = self.loaded.model(
            input_ids=batch.input_ids[None],
            position_ids=batch.position_ids[None],
            use_cache=False,
            logits_to_keep=0 if logit_rows is None else logit_rows,
            attention_backend=attention,
        )
        logits: Tensor = output.logits[0]
        return logits
