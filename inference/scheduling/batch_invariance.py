"""Batch-invariant mode's part of scheduling: which tokens run together is a matter of the sequence alone.

A prompt's tokens are computed by prefill, in chunks that end at fixed places or with the prompt; output
tokens one by one, also when they are computed again after a preemption. What one way has computed is never
taken for the other: only blocks that lie in the prompt are shared.
"""

from __future__ import annotations

from dataclasses import dataclass

from inference.scheduling.sequence import Row, Sequence


@dataclass(frozen=True, slots=True)
class Borders:
    """Where chunks of a prompt may begin and end: at multiples of a number that KV blocks divide."""

    multiple: int  # tokens

    def __post_init__(self) -> None:
        if self.multiple < 1:
            raise ValueError(f"multiple must be at least 1, not {self.multiple}")

    def num_tokens(self, sequence: Sequence, *, budget: int) -> int:
        """How many of the sequence's next tokens a step computes; 0: the budget is too small for any."""
        start, num_prompt_tokens = sequence.num_computed_tokens, sequence.num_prompt_tokens
        if start >= num_prompt_tokens:
            return min(1, budget)
        end = start + budget
        if end >= num_prompt_tokens:
            return num_prompt_tokens - start
        return max(0, end // self.multiple * self.multiple - start)

    def num_findable_blocks(self, sequence: Sequence, *, block_size: int) -> int:
        """Of the sequence's blocks, those at its beginning that may come from the prefix cache."""
        num_tokens = min(sequence.num_prompt_tokens, len(sequence.token_ids) - 1)
        return num_tokens // self.multiple * self.multiple // block_size

    def cut(self, row: Row) -> list[Row]:
        """The row in pieces that begin and end at every multiple."""
        if row.num_tokens == 1:
            return [row]
        ends = [*range((row.start // self.multiple + 1) * self.multiple, row.end, self.multiple), row.end]
        starts = [row.start, *ends[:-1]]
        return [Row(row.sequence, start, end - start) for start, end in zip(starts, ends, strict=True)]


def is_prefill(row: Row) -> bool:
    """Whether the row's tokens are of the prompt, and not of the output."""
    return row.start < row.sequence.num_prompt_tokens
