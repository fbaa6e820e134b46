"""Which tokens of a sequence run together: as many as there is room for, or always the same.

The latter is batch-invariant mode: a matter of the sequence alone. A prompt's tokens are computed
by prefill, in chunks that end at fixed places or with the prompt; output tokens one by one, also when they
are computed again after a preemption. What one way has computed is never taken for the
other: only blocks that lie in the prompt are shared.
"""

from __future__ import annotations

from dataclasses import dataclass

from inference.scheduling.prefill_budget import StepBudget
from inference.scheduling.sequence import Sequence
from inference.scheduling.step_plan import ScheduledChunk


@dataclass(frozen=True, slots=True)
class ChunkPolicy:
    """The ordinary one: a chunk may begin and end anywhere."""

    multiple: int = 1  # tokens: where chunks of a prompt may begin and end

    def __post_init__(self) -> None:
        if self.multiple < 1:
            raise ValueError(f"multiple must be at least 1, not {self.multiple}")

    def is_decode(self, sequence: Sequence) -> bool:
        """Whether the sequence's next token runs by itself, as decode."""
        return len(sequence.token_ids) - sequence.num_computed_tokens <= 1

    def chunk_size(self, sequence: Sequence, budget: StepBudget, *, is_last: bool) -> int:
        """How many of the sequence's next tokens a step computes; 0: the budget is too small for any.

        `is_last`: nobody waits behind it.
        """
        return min(budget.share(is_last=is_last), sequence.num_uncomputed_tokens)

    def widen(self, budget: StepBudget) -> None:
        """See to it that the budget takes a chunk."""

    def order(self, chunks: list[ScheduledChunk]) -> None:
        """Put a step's chunks in the order in which they run."""

    def num_findable_blocks(self, sequence: Sequence, *, block_size: int) -> int:
        """Of the sequence's blocks, those at its beginning that may come from the prefix cache."""
        return (len(sequence.token_ids) - 1) // block_size

    def num_usable_blocks(self, num_found: int, *, block_size: int) -> int:
        """Of so many blocks that the prefix cache has, those that can be taken."""
        return num_found

    def num_shareable_blocks(self, sequence: Sequence, num_full: int, *, block_size: int) -> int:
        """Of the sequence's `num_full` full blocks, those that others may take."""
        return num_full


ORDINARY = ChunkPolicy()


class ChunkAlignment(ChunkPolicy):
    """Batch-invariant: chunks of a prompt begin and end at multiples of a number that KV blocks divide."""

    def is_decode(self, sequence: Sequence) -> bool:
        return sequence.num_computed_tokens >= sequence.num_prompt_tokens

    def chunk_size(self, sequence: Sequence, budget: StepBudget, *, is_last: bool) -> int:
        start, num_prompt_tokens = sequence.num_computed_tokens, sequence.num_prompt_tokens
        if start >= num_prompt_tokens:
            return min(1, budget.num_tokens)
        end = start + budget.num_tokens
        if end >= num_prompt_tokens:
            return num_prompt_tokens - start
        return max(0, end // self.multiple * self.multiple - start)

    def widen(self, budget: StepBudget) -> None:
        budget.num_tokens = max(budget.num_tokens, self.multiple)

    def order(self, chunks: list[ScheduledChunk]) -> None:
        chunks.sort(key=is_prefill)  # one that begins with output to compute again stands among the last

    def num_findable_blocks(self, sequence: Sequence, *, block_size: int) -> int:
        num_tokens = min(sequence.num_prompt_tokens, len(sequence.token_ids) - 1)
        return num_tokens // self.multiple * self.multiple // block_size

    def num_usable_blocks(self, num_found: int, *, block_size: int) -> int:
        return num_found - num_found % (self.multiple // block_size)

    def num_shareable_blocks(self, sequence: Sequence, num_full: int, *, block_size: int) -> int:
        return min(num_full, sequence.num_prompt_tokens // block_size)

    def cut(self, start: int, length: int) -> list[tuple[int, int]]:
        """A chunk in pieces, by start and length, that begin and end at every multiple."""
        if length == 1:
            return [(start, 1)]
        end = start + length
        ends = [*range((start // self.multiple + 1) * self.multiple, end, self.multiple), end]
        starts = [start, *ends[:-1]]
        return [(first, last - first) for first, last in zip(starts, ends, strict=True)]


def is_prefill(chunk: ScheduledChunk) -> bool:
    """Whether the chunk's tokens are of the prompt, and not of the output."""
    return chunk.start < chunk.sequence.num_prompt_tokens
