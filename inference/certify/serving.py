"""A loaded model as it is served, to be measured: logits after every token, and greedy continuations."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from inference.config import EngineConfig
from inference.execution.build import DEFAULT_BATCH_TOKENS, runner_for
from inference.models.loader import LoadedModel
from inference.protocol.requests import GenerateRequest, Owner, Sampling
from inference.scheduling.sequence import Sequence
from inference.scheduling.step_plan import ScheduledChunk, StepPlan

MAX_CHUNK = 512  # tokens whose logits are held at once
MAX_SEQUENCES = 64  # that are continued together


class Serving(Protocol):
    """Batched (paged) or sequential serving of a loaded model."""

    def logits(self, token_ids: Seq[int]) -> Iterator[Tensor]:
        """The logits after each token, `[num_tokens, vocab]`, in pieces."""

    def continuations(self, prompts: Seq[Seq[int]], num_tokens: int) -> list[list[int]]:
        """The greedy continuation of each prompt, up to end-of-sequence."""


def serving(loaded: LoadedModel, config: EngineConfig, *, longest: int) -> Serving:
    """As `host.load` would decide; `longest` is the longest text with its continuation, in tokens."""
    return PagedServing(loaded, config, longest=longest) if loaded.batching else SequentialServing(loaded)


class PagedServing:
    """The batched engine's runner: prompts in chunks over a small pool, then all decoding together."""

    def __init__(self, loaded: LoadedModel, config: EngineConfig, *, longest: int) -> None:
        self._eos = frozenset(loaded.eos_token_ids)
        budget = config.max_batch_tokens or DEFAULT_BATCH_TOKENS[loaded.device.type]
        self._chunk = min(budget, MAX_CHUNK)
        self._config = replace(config, max_batch_tokens=MAX_CHUNK, max_num_seqs=MAX_SEQUENCES)
        self._block_size = config.block_size
        self._longest = longest
        self._runner = self._over(1, loaded)
        self._loaded = loaded

    def logits(self, token_ids: Seq[int]) -> Iterator[Tensor]:
        sequence = self._sequence(token_ids, index=0)
        for start in range(0, len(token_ids), self._chunk):
            num_tokens = min(self._chunk, len(token_ids) - start)
            yield self._runner.score(StepPlan((ScheduledChunk(sequence, start, num_tokens),)).input)

    def continuations(self, prompts: Seq[Seq[int]], num_tokens: int) -> list[list[int]]:
        runner = self._over(len(prompts), self._loaded)
        sequences = [self._sequence(prompt, index=index) for index, prompt in enumerate(prompts)]
        for _ in range(num_tokens):
            chunks = [
                ScheduledChunk(sequence, sequence.num_computed_tokens, sequence.num_uncomputed_tokens)
                for sequence in sequences
                if self._eos.isdisjoint(sequence.output_token_ids)
            ]
            if not chunks:
                break
            chosen = runner.run(StepPlan(tuple(chunks)).input).argmax(dim=-1).tolist()
            for chunk, token_id in zip(chunks, chosen, strict=True):
                chunk.sequence.num_computed_tokens = chunk.end
                chunk.sequence.token_ids.append(token_id)
        return [sequence.output_token_ids for sequence in sequences]

    @property
    def _blocks_each(self) -> int:
        return -(-self._longest // self._block_size)

    def _over(self, num_sequences: int, loaded: LoadedModel) -> Any:
        return runner_for(loaded, self._config, num_blocks=num_sequences * self._blocks_each)

    def _sequence(self, token_ids: Seq[int], *, index: int) -> Sequence:
        request = GenerateRequest(
            request_id=f"certificate {index}",
            revision="",
            token_ids=tuple(token_ids),
            owner=Owner("certificate", salt=""),
            sampling=Sampling(temperature=0.0),
        )
        # Last block first: a backend that took blocks for consecutive would be found out.
        table = tuple(range((index + 1) * self._blocks_each - 1, index * self._blocks_each - 1, -1))
        return Sequence(request, arrived_at=0.0, max_tokens=self._longest, seed=0, block_table=table)


class SequentialServing:
    """Serving as in `execution/sequential/`: the model's own forward and `generate`."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded

    @torch.inference_mode()
    def logits(self, token_ids: Seq[int]) -> Iterator[Tensor]:
        yield self._loaded.model(input_ids=self._batch(token_ids), use_cache=False).logits[0]

    @torch.inference_mode()
    def continuations(self, prompts: Seq[Seq[int]], num_tokens: int) -> list[list[int]]:
        return [self._continuation(prompt, num_tokens) for prompt in prompts]

    def _continuation(self, prompt: Seq[int], num_tokens: int) -> list[int]:
        batch = self._batch(prompt)
        output = self._loaded.model.generate(
            batch, attention_mask=torch.ones_like(batch), max_new_tokens=num_tokens, do_sample=False
        )
        return [int(token_id) for token_id in output[0, len(prompt) :]]

    def _batch(self, token_ids: Seq[int]) -> Tensor:
        return torch.tensor([list(token_ids)], dtype=torch.int64, device=self._loaded.device)
