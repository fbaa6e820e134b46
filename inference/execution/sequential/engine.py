"""The sequential engine: `model.generate`, one request at a time, behind the same methods as the batched one.

It is the oracle of the batched engine's tests, what `batching=False` means, and what serves architectures
that cannot be batched yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from inference.checkpoints.model_folder import CannotLoad
from inference.config import RevisionSpec
from inference.execution.kv_cache import token_bytes
from inference.execution.sequential.generate_runner import GenerateRunner
from inference.models.loader import LoadedModel
from inference.protocol.events import Event, Finish
from inference.protocol.requests import GenerateRequest
from inference.protocol.stats import ModelCard
from inference.sampling.sampler import BatchSampler
from inference.scheduling.engine import Engine
from inference.text.detokenizer import StreamDetokenizer


class SequentialEngine(Engine):
    """The engine's loop with a batch of one, never chunked, no prefix shared, over `generate`."""

    def __init__(self, loaded: LoadedModel, spec: RevisionSpec) -> None:
        if spec.engine.num_draft_tokens:
            raise CannotLoad(
                "num_draft_tokens needs batching, which this revision is served without: set it to 0"
            )
        if spec.engine.float32_logits and loaded.device.type == "cuda":
            raise CannotLoad(
                "float32_logits needs batching, which this revision is served without: set it to False"
            )
        eos_token_ids = frozenset(loaded.eos_token_ids)
        config = replace(
            spec.engine, max_num_seqs=1, max_batch_tokens=loaded.max_model_len, prefix_caching=False
        )
        num_blocks = -(-loaded.max_model_len // config.block_size) + 1
        self._generate = GenerateRunner(loaded, num_blocks=num_blocks, block_size=config.block_size)

        super().__init__(
            config,
            card=_card(loaded, spec.revision),
            eos_token_ids=eos_token_ids,
            runner=self._generate,
            sampler=BatchSampler(loaded.vocab_size, loaded.vocabulary, eos_token_ids=tuple(eos_token_ids)),
            detokenizer_factory=partial(StreamDetokenizer, loaded.vocabulary),
        )

    def submit(self, request: GenerateRequest, on_event: Callable[[Event], None]) -> None:
        """Queue a request. Raises `RequestRejected`; then `on_event` is never called."""

        def observe(event: Event) -> None:
            if isinstance(event, Finish):
                self._generate.end(request.request_id)
            on_event(event)

        super().submit(request, observe)

    def close(self) -> None:
        """Let go of the model. Nothing may be called after it."""
        self._generate.end()
        del self._generate
        super().close()


def _card(loaded: LoadedModel, revision: str) -> ModelCard:
    """It has no pool: each request's cache grows as it goes, up to a whole context."""
    card = loaded.card(revision)
    try:
        kv_bytes = loaded.max_model_len * token_bytes(loaded.text_config, dtype=loaded.dtype)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError, ZeroDivisionError):
        kv_bytes = 0  # an architecture that keeps something else than keys and values: it is an estimate only
    return replace(card, kv_bytes=kv_bytes, memory_bytes=card.weight_bytes + kv_bytes)
