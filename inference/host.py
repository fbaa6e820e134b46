"""Which engine serves a revision, loaded and ready: the batched one, or the sequential where that cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from inference.config import RevisionSpec
from inference.engine.build import assemble
from inference.engine.interfaces import SteppedEngine
from inference.models.loader import LoadedModel, load_model
from inference.models.prompt import prepare
from inference.protocol import LoadProgress, Prepared, PrepareRequest


@dataclass(frozen=True, slots=True)
class Served:
    """A revision ready to serve. `prepare` may be called from any thread, the engine from its owner's."""

    engine: SteppedEngine
    loaded: LoadedModel

    def prepare(self, request: PrepareRequest) -> Prepared:
        """Template, tokenize and validate a prompt. Raises `Refusal`."""
        return prepare(self.loaded, request)


def load(spec: RevisionSpec, progress: Callable[[LoadProgress], None]) -> Served:
    """Load a revision's folder, plan memory, warm up. Raises `CannotLoad` with the reason."""
    loaded = load_model(spec.folder, spec.engine, progress)
    if loaded.batching:
        engine: SteppedEngine = assemble(loaded, spec, progress)
    else:
        from inference.tasks.sequential import SequentialEngine

        engine = SequentialEngine(loaded, spec)
    return Served(engine, replace(loaded, max_model_len=engine.card.max_model_len))
