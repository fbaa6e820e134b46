"""What execution is given of a step: arrays and tuples as they stood when it was made, no live sequence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.protocol.requests import Sampling


@dataclass(frozen=True, slots=True)
class SamplingInput:
    """What choosing tokens takes: an entry for each chunk that samples, in their order."""

    params: tuple[Sampling, ...] = ()
    seeds: tuple[int, ...] = ()
    positions: tuple[int, ...] = ()  # which of its output tokens is chosen, counted from 0
    token_ids: tuple[NDArray[np.int64], ...] = ()  # prompt and output; empty where no penalty counts them

    def __len__(self) -> int:
        return len(self.params)

    def part(self, first: int, end: int) -> SamplingInput:
        """The entries `first .. end`."""
        return SamplingInput(
            self.params[first:end],
            self.seeds[first:end],
            self.positions[first:end],
            self.token_ids[first:end],
        )


@dataclass(frozen=True, slots=True)
class StepInput:
    """Chunks of sequences that run in one step. Each column after `token_ids` has an entry for each chunk."""

    token_ids: NDArray[np.int64]  # [num_tokens], chunk after chunk; PENDING where only the device knows one
    request_ids: tuple[str, ...]
    table_ids: tuple[int, ...]  # of the block table: another one each time that a sequence gets its blocks
    block_tables: tuple[tuple[int, ...], ...]  # KV block ids, in order
    starts: tuple[int, ...]  # position of the first token
    lengths: tuple[int, ...]  # tokens
    num_prompt_tokens: tuple[int, ...]  # of the whole sequence
    samples: tuple[bool, ...]  # whether a token is chosen after it
    sampling: SamplingInput

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_chunks(self) -> int:
        return len(self.starts)

    @property
    def ends(self) -> tuple[int, ...]:
        """How many keys each chunk's last token sees."""
        return tuple([start + length for start, length in zip(self.starts, self.lengths, strict=True)])

    def piece(self, index: int, start: int, length: int) -> StepInput:
        """A step of one chunk's tokens from position `start` on, to be run alone and in their order."""
        offset = sum(self.lengths[:index]) + start - self.starts[index]
        is_last = start + length == self.starts[index] + self.lengths[index]
        samples = is_last and self.samples[index]
        num_before = sum(self.samples[:index])
        return StepInput(
            token_ids=self.token_ids[offset : offset + length],
            request_ids=(self.request_ids[index],),
            table_ids=(self.table_ids[index],),
            block_tables=(self.block_tables[index],),
            starts=(start,),
            lengths=(length,),
            num_prompt_tokens=(self.num_prompt_tokens[index],),
            samples=(samples,),
            sampling=self.sampling.part(num_before, num_before + samples),
        )


def is_adjusted(params: Sampling, position: int) -> bool:
    """Whether the logits of the output token at `position` are to be changed at all."""
    return bool(params.logit_bias or has_penalty(params) or position < params.min_tokens)


def has_penalty(params: Sampling) -> bool:
    """Whether tokens seen before count for or against themselves."""
    return (
        params.presence_penalty != 0.0 or params.frequency_penalty != 0.0 or params.repetition_penalty != 1.0
    )
