"""Puts a batched engine together: resolves what the settings leave open, plans memory, warms up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from inference.config import EngineConfig, RevisionSpec
from inference.engine.detokenizer import StreamDetokenizer
from inference.engine.engine import Engine
from inference.engine.kv_cache import block_bytes
from inference.engine.memory import free_host_bytes, plan_num_blocks
from inference.engine.runner import ModelRunner
from inference.engine.sampler import BatchSampler
from inference.engine.warmup import warm_up
from inference.models.loader import LoadedModel, load_model
from inference.protocol import LoadProgress

# CPU: one core computes 152, 176, 182, 149 prompt tokens/s in chunks of 64, 128, 256, 512 (SmolLM2-135M,
# float32, beside other work), and all streams wait for a chunk. CUDA: an estimate, not measured yet.
DEFAULT_BATCH_TOKENS = {"cpu": 128, "cuda": 4096}


def assemble(
    loaded: LoadedModel, spec: RevisionSpec, progress: Callable[[LoadProgress], None] = lambda _: None
) -> Engine:
    """The engine of a model that is loaded and can be batched. Raises `CannotLoad` with the reason."""
    sampler = BatchSampler(loaded.vocab_size, loaded.vocabulary, eos_token_ids=loaded.eos_token_ids)
    config = _resolved(spec.engine, loaded)
    progress(LoadProgress("planning memory", 0.0))
    num_blocks = config.num_blocks or _plan(loaded, config, sampler)
    runner = ModelRunner(loaded, num_blocks=num_blocks, block_size=config.block_size)
    progress(LoadProgress("warming up", 0.0))
    _warm_up(runner, sampler, config, loaded)
    card = loaded.card(spec.revision)
    progress(LoadProgress("ready", 1.0))
    return Engine(
        config,
        card=replace(card, max_model_len=min(card.max_model_len, num_blocks * config.block_size)),
        eos_token_ids=frozenset(loaded.eos_token_ids),
        runner=runner,
        sampler=sampler,
        detokenizer_factory=lambda sampling: StreamDetokenizer(loaded.vocabulary, sampling),
    )


def build_engine(spec: RevisionSpec, progress: Callable[[LoadProgress], None] = lambda _: None) -> Engine:
    """Load a revision's folder and assemble its engine. Raises `CannotLoad` with the reason."""
    return assemble(load_model(spec.folder, spec.engine, progress), spec, progress)


def _resolved(config: EngineConfig, loaded: LoadedModel) -> EngineConfig:
    return replace(
        config,
        max_batch_tokens=config.max_batch_tokens or DEFAULT_BATCH_TOKENS[loaded.device.type],
        max_model_len=loaded.max_model_len,
    )


def _plan(loaded: LoadedModel, config: EngineConfig, sampler: BatchSampler) -> int:
    is_cuda = loaded.device.type == "cuda"
    if is_cuda:
        _reserve_step_memory(loaded, config, sampler)
        free_bytes = torch.cuda.mem_get_info(loaded.device)[0]
    else:
        free_bytes = free_host_bytes()
    return plan_num_blocks(
        free_bytes=free_bytes,
        block_bytes=block_bytes(loaded.text_config, block_size=config.block_size, dtype=loaded.dtype),
        block_size=config.block_size,
        max_model_len=loaded.max_model_len,
        max_num_seqs=config.max_num_seqs,
        is_cuda=is_cuda,
    )


def _reserve_step_memory(loaded: LoadedModel, config: EngineConfig, sampler: BatchSampler) -> None:
    """Run the largest step over a small pool: torch keeps that memory, and what is left is the pool's."""
    assert config.max_batch_tokens is not None
    num_blocks = max(config.max_num_seqs, -(-config.max_batch_tokens // config.block_size))
    runner = ModelRunner(loaded, num_blocks=num_blocks, block_size=config.block_size)
    _warm_up(runner, sampler, config, loaded)
    torch.cuda.synchronize(loaded.device)


def _warm_up(runner: ModelRunner, sampler: BatchSampler, config: EngineConfig, loaded: LoadedModel) -> None:
    assert config.max_batch_tokens is not None
    warm_up(
        runner,
        sampler,
        max_batch_tokens=config.max_batch_tokens,
        max_num_seqs=config.max_num_seqs,
        max_model_len=loaded.max_model_len,
    )
