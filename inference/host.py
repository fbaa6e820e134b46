"""Which engine serves a revision, loaded and ready: the batched one, or the sequential where that cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from inference.config import EngineConfig, RevisionSpec
from inference.cpu import compiler
from inference.engine import dtype_choice
from inference.engine.build import assemble
from inference.engine.engine import Engine
from inference.engine.memory import free_host_bytes, total_host_bytes
from inference.models.device import choose_device, choose_dtype
from inference.models.loader import LoadedModel
from inference.models.prompt import prepare
from inference.protocol import Device, LoadProgress, Prepared, PrepareRequest
from inference.tasks.sequential import SequentialEngine


@dataclass(frozen=True, slots=True)
class Served:
    """A revision ready to serve. `prepare` may be called from any thread, the engine from its owner's."""

    engine: Engine
    loaded: LoadedModel

    def prepare(self, request: PrepareRequest) -> Prepared:
        """Template, tokenize and validate a prompt. Raises `Refusal`."""
        return prepare(self.loaded, request)


def load(spec: RevisionSpec, progress: Callable[[LoadProgress], None]) -> Served:
    """Load a revision's folder, plan memory, warm up. Raises `CannotLoad` with the reason."""
    loaded = dtype_choice.load(spec.folder, spec.engine, progress)
    engine = assemble(loaded, spec, progress) if loaded.batching else SequentialEngine(loaded, spec)
    return Served(engine, replace(loaded, max_model_len=engine.card.max_model_len))


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
    """After an unload: memory that torch keeps for itself goes back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
