"""Which engine serves a revision, loaded and ready: the batched one, or the sequential where that cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from inference import transformers_index
from inference.config import EngineConfig, PlacementConfig, RevisionSpec
from inference.cpu import compiler
from inference.execution import dtype_choice
from inference.execution.build import assemble
from inference.execution.host_memory import free_host_bytes, return_freed_pages, total_host_bytes
from inference.execution.sequential.engine import SequentialEngine
from inference.models.device import choose_device, choose_dtype
from inference.models.loader import LoadedModel
from inference.prompt_process.process import PromptSettings
from inference.prompt_process.queue import PromptDesk
from inference.protocol.requests import Prepared, PrepareRequest
from inference.protocol.stats import Device, LoadProgress
from inference.scheduling.engine import Engine
from inference.text.tokenizer import load_tokenizer


@dataclass(frozen=True, slots=True)
class Served:
    """A revision ready to serve. `prepare` may be called on any loop, the engine by its owner's thread."""

    engine: Engine
    loaded: LoadedModel
    prompts: PromptDesk

    async def prepare(self, request: PrepareRequest) -> Prepared:
        """Template, tokenize and validate a prompt. Raises `Refusal`."""
        prepared = await self.prompts.prepare(
            request, vocab_size=self.loaded.vocab_size, max_model_len=self.loaded.max_model_len
        )
        return replace(prepared, sampling=self.loaded.sampling)


def load(spec: RevisionSpec, progress: Callable[[LoadProgress], None], placement: PlacementConfig) -> Served:
    """Load a revision's folder, plan memory, warm up. Raises `CannotLoad` with the reason.

    Its tokenizer is read here only once a process that can be ended has read and tried it.
    """
    prompts = PromptDesk(spec.revision, spec.folder, prompt_settings(placement))

    notes: list[str] = []

    def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
        notes.append(prompts.open())
        return load_tokenizer(folder)

    try:
        loaded = dtype_choice.load(spec.folder, spec.engine, progress, read_tokenizer)
        give_back()  # the pool is planned from what is free
        engine = assemble(loaded, spec, progress) if loaded.batching else SequentialEngine(loaded, spec)
    except BaseException:
        prompts.close()
        raise
    engine.card = replace(engine.card, note="; ".join(filter(None, (engine.card.note, *notes))))
    return Served(engine, replace(loaded, max_model_len=engine.card.max_model_len), prompts)


def prompt_settings(placement: PlacementConfig) -> PromptSettings:
    """How prompts are prepared, as a placement is configured."""
    return PromptSettings(
        seconds=placement.prepare_seconds,
        index=placement.data_dir / transformers_index.FILE,
        variables=placement.child_variables,
    )


def device() -> Device:
    """The device that "auto" means here, and its memory now."""
    settings = EngineConfig()
    chosen = choose_device(settings)
    dtype = str(choose_dtype(settings, chosen)).removeprefix("torch.")
    if chosen.type == "cuda":
        free, total = torch.cuda.mem_get_info(chosen)
        return Device("cuda", dtype, total_bytes=total, free_bytes=free)
    return Device(
        "cpu",
        dtype,
        total_bytes=total_host_bytes(),
        free_bytes=free_host_bytes(),
        keeps_bfloat16=compiler.works(),
    )


def give_back() -> None:
    """After loads and unloads: memory that allocators keep for themselves goes back to device and system."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return_freed_pages()
