"""Puts a batched engine together: resolves what the settings leave open, plans memory, warms up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from inference.checkpoints.model_folder import CannotLoad
from inference.config import EngineConfig, RevisionSpec
from inference.execution.batch_invariant_runner import BatchInvariantRunner
from inference.execution.cuda.block_tables import table_bytes
from inference.execution.dtype_choice import load
from inference.execution.gpu_memory import (
    GpuMemory,
    Needs,
    check_plan,
    measure,
    refusing_when_full,
    reserve_bytes,
    run_largest,
)
from inference.execution.host_memory import free_host_bytes, plan_num_blocks
from inference.execution.kv_cache import pool_dtype, token_bytes
from inference.execution.runner import ModelRunner
from inference.execution.warmup import warm_up, warm_up_mixes
from inference.fused.supported import can_fuse
from inference.kv_pool_size import Pool
from inference.models.loader import LoadedModel
from inference.protocol.stats import LoadProgress
from inference.sampling.sampler import BatchSampler
from inference.scheduling.batch_invariance import ChunkPolicy
from inference.scheduling.engine import Engine
from inference.scheduling.speculation import ROW_COSTS, Speculation, num_draft_rows
from inference.scheduling.step_loop import AsyncStepRunner, StepRunner, SyncStepRunner
from inference.text.detokenizer import StreamDetokenizer

if TYPE_CHECKING:  # triton is there only where CUDA is
    from inference.execution.cuda.runner import CudaRunner

# CPU: one core computes 152, 176, 182, 149 prompt tokens/s in chunks of 64, 128, 256, 512 (SmolLM2-135M,
# float32, beside other work), and all streams wait for a chunk. CUDA: 8192
# was 1 to 3 % quicker than 4096 on one H200, 16384 no quicker; prefill_budget.py keeps pauses short.
DEFAULT_BATCH_TOKENS = {"cpu": 128, "cuda": 8192}

CPU_WARM_UP_ROWS = 4  # of decode: more of them would take seconds, and bring nothing new


def assemble(
    loaded: LoadedModel, spec: RevisionSpec, progress: Callable[[LoadProgress], None] = lambda _: None
) -> Engine:
    """The engine of a model that is loaded and can be batched. Raises `CannotLoad` with the reason."""
    sampler = BatchSampler(loaded.vocab_size, loaded.vocabulary, eos_token_ids=loaded.eos_token_ids)
    config = _resolved(spec.engine, loaded)
    progress(LoadProgress("planning memory", 0.0))
    pool = _pool(loaded, config)
    with refusing_when_full():
        needs = _needs(loaded, config, sampler) if pool.is_cuda else Needs()
        num_blocks = config.num_blocks or _plan(loaded, pool, spec.memory_bytes, needs)
        runner, step_runner = _ready(loaded, config, sampler, num_blocks=num_blocks, progress=progress)
        if pool.is_cuda:
            _run_largest(runner, sampler, config, loaded)
            check_plan(needs, left_bytes=GpuMemory(loaded.device).free_bytes(), num_blocks=num_blocks)
    card = loaded.card(spec.revision)
    kv_bytes = runner.cache.num_bytes
    progress(LoadProgress("ready", 1.0))
    return Engine(
        config,
        card=replace(
            card,
            max_model_len=min(card.max_model_len, num_blocks * config.block_size),
            kv_bytes=kv_bytes,
            memory_bytes=card.weight_bytes + kv_bytes + needs.step + needs.graphs,
        ),
        eos_token_ids=frozenset(loaded.eos_token_ids),
        runner=runner,
        sampler=sampler,
        step_runner=step_runner,
        speculation=_speculation(runner, config),
        chunk_policy=_chunk_policy(runner, config),
        detokenizer_factory=partial(StreamDetokenizer, loaded.vocabulary),
    )


def build_engine(spec: RevisionSpec, progress: Callable[[LoadProgress], None] = lambda _: None) -> Engine:
    """Load a revision's folder and assemble its engine. Raises `CannotLoad` with the reason."""
    return assemble(load(spec.folder, spec.engine, progress), spec, progress)


def _resolved(config: EngineConfig, loaded: LoadedModel) -> EngineConfig:
    return replace(
        config,
        max_batch_tokens=config.max_batch_tokens or DEFAULT_BATCH_TOKENS[loaded.device.type],
        max_model_len=loaded.max_model_len,
    )


def _pool(loaded: LoadedModel, config: EngineConfig) -> Pool:
    return Pool(
        token_bytes=token_bytes(loaded.text_config, dtype=pool_dtype(config, loaded.dtype)),
        block_size=config.block_size,
        max_model_len=loaded.max_model_len,
        max_num_seqs=config.max_num_seqs,
        is_cuda=loaded.device.type == "cuda",
    )


def _plan(loaded: LoadedModel, pool: Pool, memory_bytes: int | None, needs: Needs) -> int:
    free_bytes = GpuMemory(loaded.device).free_bytes() if pool.is_cuda else free_host_bytes()
    room_bytes = None
    if memory_bytes is not None:
        room_bytes = memory_bytes - loaded.weight_bytes - needs.step - needs.graphs
    return plan_num_blocks(pool, free_bytes=free_bytes, taken_bytes=needs.total, room_bytes=room_bytes)


def _needs(loaded: LoadedModel, config: EngineConfig, sampler: BatchSampler) -> Needs:
    """What the engine will take of the GPU beside weights and pool, measured over a small pool."""
    assert config.max_batch_tokens is not None
    small = max(_max_rows(config), -(-config.max_batch_tokens // config.block_size))
    memory = GpuMemory(loaded.device)
    measured = measure(
        memory,
        lambda: runner_for(loaded, config, num_blocks=small),
        lambda runner: _run_largest(runner, sampler, config, loaded),
        pool_bytes=lambda runner: runner.cache.num_bytes,
        captures=lambda runner: _captures(runner, config, loaded),
    )
    reserve = reserve_bytes(
        total_bytes=memory.total_bytes(), num_pool_tensors=2 * loaded.text_config.num_hidden_layers
    )
    max_blocks = -(-loaded.max_model_len // config.block_size)
    return replace(
        measured, step=measured.step + table_bytes(config.max_num_seqs, max_blocks), reserve=reserve
    )


def _ready(
    loaded: LoadedModel,
    config: EngineConfig,
    sampler: BatchSampler,
    *,
    num_blocks: int,
    progress: Callable[[LoadProgress], None],
) -> tuple[ModelRunner | CudaRunner, StepRunner]:
    """A runner that has compiled, captured and tried what it will need, and what steps it."""
    runner = runner_for(loaded, config, num_blocks=num_blocks)
    must_compile = isinstance(runner, ModelRunner) and runner.must_compile
    progress(LoadProgress("compiling layers, once" if must_compile else "warming up", 0.0))
    _warm_up(runner, sampler, config, loaded)
    step_runner = _step_runner(runner, sampler, config)
    if not isinstance(runner, ModelRunner):
        for done, num_graphs in enumerate(_captures(runner, config, loaded), start=1):
            progress(LoadProgress("capturing graphs", done / num_graphs))
        warm_up_mixes(runner, step_runner, max_num_seqs=config.max_num_seqs)
    return runner, step_runner


def _captures(runner: ModelRunner | CudaRunner, config: EngineConfig, loaded: LoadedModel) -> Iterator[int]:
    """Makes the runner's CUDA graphs one by one; says each time how many there will be."""
    if isinstance(runner, ModelRunner) or not (config.cuda_graphs and not loaded.why_not_captured):
        return iter(())
    return runner.capture()


def runner_for(loaded: LoadedModel, config: EngineConfig, *, num_blocks: int) -> ModelRunner | CudaRunner:
    """Triton's kernels have a runner of their own; the others share the plain one. `config` is resolved."""
    is_fused = loaded.attention == "triton" and config.fused_layers and can_fuse(loaded.model)
    if config.float32_logits and loaded.device.type == "cuda" and not is_fused:
        raise CannotLoad(
            "float32_logits on a GPU needs attention triton, fused_layers and a family of models that can be "
            "fused; set float32_logits to False"
        )
    if loaded.attention != "triton":
        runner_class = BatchInvariantRunner if config.batch_invariant else ModelRunner
        kv_dtype = pool_dtype(config, loaded.dtype)
        return runner_class(
            loaded,
            num_blocks=num_blocks,
            block_size=config.block_size,
            kv_dtype=kv_dtype,
            fuses=config.fused_layers,
        )
    from inference.execution.cuda.runner import CudaRunner

    assert config.max_batch_tokens is not None
    return CudaRunner(
        loaded,
        num_blocks=num_blocks,
        block_size=config.block_size,
        max_num_seqs=config.max_num_seqs,
        num_draft_rows=_max_rows(config) - config.max_num_seqs,
        max_batch_tokens=config.max_batch_tokens,
        max_model_len=loaded.max_model_len,
        kv_dtype=pool_dtype(config, loaded.dtype),
        fuses=config.fused_layers,
        is_invariant=config.batch_invariant,
        logits_dtype=torch.float32 if config.float32_logits else None,
    )


def _chunk_policy(runner: ModelRunner | CudaRunner, config: EngineConfig) -> ChunkPolicy:
    policy = runner.chunk_policy
    assert config.max_batch_tokens is not None
    if config.max_batch_tokens < policy.multiple:
        raise CannotLoad(
            f"max_batch_tokens is {config.max_batch_tokens}, but batch_invariant needs at least "
            f"{policy.multiple} for this model"
        )
    return policy


def _step_runner(runner: ModelRunner | CudaRunner, sampler: BatchSampler, config: EngineConfig) -> StepRunner:
    if isinstance(runner, ModelRunner) or not config.overlap:
        return SyncStepRunner(runner, sampler)
    from inference.execution.cuda.launcher import CudaLauncher

    launcher = CudaLauncher(runner, sampler, max_num_seqs=config.max_num_seqs)
    return AsyncStepRunner(runner, sampler, launcher)


def _warm_up(
    runner: ModelRunner | CudaRunner, sampler: BatchSampler, config: EngineConfig, loaded: LoadedModel
) -> None:
    assert config.max_batch_tokens is not None
    num_rows = _max_rows(config) if loaded.device.type == "cuda" else CPU_WARM_UP_ROWS
    warm_up(
        runner,
        sampler,
        max_batch_tokens=config.max_batch_tokens,
        max_num_seqs=num_rows,
        max_model_len=loaded.max_model_len,
    )


def _run_largest(
    runner: ModelRunner | CudaRunner, sampler: BatchSampler, config: EngineConfig, loaded: LoadedModel
) -> None:
    assert config.max_batch_tokens is not None
    _warm_up(runner, sampler, config, loaded)
    run_largest(
        runner,
        sampler,
        max_batch_tokens=config.max_batch_tokens,
        max_rows=_max_rows(config),
        max_model_len=loaded.max_model_len,
    )


def _max_rows(config: EngineConfig) -> int:
    """Of decode, in one step: those of its sequences, and those of drafts."""
    num_drafts = num_draft_rows(num_draft_tokens=config.num_draft_tokens, max_num_seqs=config.max_num_seqs)
    return config.max_num_seqs + num_drafts


def _speculation(runner: ModelRunner | CudaRunner, config: EngineConfig) -> Speculation | None:
    if not config.num_draft_tokens:
        return None
    if isinstance(runner, BatchInvariantRunner):
        raise CannotLoad(
            "num_draft_tokens brings nothing where batch_invariant runs each row alone: set it to 0"
        )
    row_cost = ROW_COSTS[runner.loaded.device.type]
    return Speculation(num_draft_tokens=config.num_draft_tokens, row_cost=row_cost)
