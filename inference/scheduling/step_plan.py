"""What a step is to run, by sequences: the scheduler's plan, from which execution's input is made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from inference.scheduling.sequence import Sequence
from inference.scheduling.step_input import SamplingInput, StepInput

NOT_COUNTED = np.empty(0, dtype=np.int64)


@dataclass(slots=True, eq=False)  # not frozen: a step makes hundreds, and freezing takes longer than making
class ScheduledChunk:
    """Part of one sequence in a step: tokens `start .. start + num_tokens` run together.

    A chunk with a draft runs one proposed token: it follows what the chunks before it have, and what is
    sampled after it counts where the draft was right.
    """

    sequence: Sequence
    start: int
    num_tokens: int
    draft: int | None = None

    @property
    def end(self) -> int:
        return self.start + self.num_tokens

    @property
    def samples(self) -> bool:
        """Whether the chunk reaches its sequence's last token or goes beyond: one is sampled after it."""
        return self.draft is not None or self.start + self.num_tokens == len(self.sequence.token_ids)


@dataclass(frozen=True)
class StepPlan:
    """What one step runs: chunks of prefill and single decode tokens in one packed batch."""

    chunks: tuple[ScheduledChunk, ...]
    is_speculative: bool = False  # drafts are in it, or will be once the tokens under way are known

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)

    def without_drafts(self) -> StepPlan:
        """The same step without speculation."""
        return StepPlan(tuple(chunk for chunk in self.chunks if chunk.draft is None))

    @cached_property
    def input(self) -> StepInput:
        """The plan, which is not empty, as plain data: as its sequences stand when it is first asked for."""
        chunks = self.chunks
        sequences = [chunk.sequence for chunk in chunks]
        samples = tuple([chunk.samples for chunk in chunks])
        return StepInput(
            token_ids=np.array(_token_ids(chunks), dtype=np.int64),
            request_ids=tuple([sequence.request.request_id for sequence in sequences]),
            table_ids=tuple([sequence.table_id for sequence in sequences]),
            block_tables=tuple([sequence.block_table for sequence in sequences]),
            starts=tuple([chunk.start for chunk in chunks]),
            lengths=tuple([chunk.num_tokens for chunk in chunks]),
            num_prompt_tokens=tuple([sequence.num_prompt_tokens for sequence in sequences]),
            samples=samples,
            sampling=_sampling_input(chunks if all(samples) else tuple(compress(chunks, samples))),
        )


def _token_ids(chunks: tuple[ScheduledChunk, ...]) -> list[int]:
    token_ids: list[int] = []
    for chunk in chunks:
        if chunk.draft is not None:
            token_ids.append(chunk.draft)
        elif chunk.num_tokens == 1:
            token_ids.append(chunk.sequence.token_ids[chunk.start])
        else:
            token_ids += chunk.sequence.token_ids[chunk.start : chunk.end]
    return token_ids


def _sampling_input(chunks: tuple[ScheduledChunk, ...]) -> SamplingInput:
    return SamplingInput(
        params=tuple([chunk.sequence.request.sampling for chunk in chunks]),
        seeds=tuple([chunk.sequence.seed for chunk in chunks]),
        positions=tuple([c.start + c.num_tokens - c.sequence.num_prompt_tokens for c in chunks]),
        token_ids=tuple(
            [_tokens(one.sequence) if one.sequence.has_penalty else NOT_COUNTED for one in chunks]
        ),
    )


def _tokens(sequence: Sequence) -> NDArray[np.int64]:
    return np.array(sequence.token_ids, dtype=np.int64)
