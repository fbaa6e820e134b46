"""Speculative decoding by n-grams: which sequences get draft tokens in a step, and how many were accepted.

A draft is a decode chunk that stands one further than the chunk before it. All chunks of a sequence are
sampled by its own parameters and random numbers, and a draft is accepted while it equals the token that was
sampled before it: so the output is the same, token for token, and only the number of steps changes.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from itertools import takewhile

from inference.scheduling.ngram_drafter import NgramDrafter
from inference.scheduling.sequence import Sequence
from inference.scheduling.step_input import is_adjusted
from inference.scheduling.step_plan import ScheduledChunk

LEAST_CHANCE = 0.3  # a draft that is right less often is not computed, however little a row costs
LEAST_GAIN = 0.1  # tokens hoped for, per decoding sequence: less does not pay for a step that cannot overlap
MAX_SEQUENCES = 32  # decoding at once: with more, rows fill the device and each draft takes a real row's time

# What one row more adds to a step, as a part of a step of one row. CPU: SmolLM2-135M in float32 takes
# 78, 110, 141 ms for 1, 5, 8 rows on one thread. CUDA: an estimate for 8 billion parameters.
ROW_COSTS = {"cpu": 0.12, "cuda": 0.015}


@dataclass(frozen=True, slots=True)
class Proposal:
    """What to compute ahead. `waits`: drafts are worth while once the tokens under way have been read."""

    drafts: dict[Sequence, list[int]] = field(default_factory=dict)
    waits: bool = False


class Speculation:
    """One engine's drafts, without a clock: what a row costs is told, what drafts are worth is seen."""

    def __init__(self, *, num_draft_tokens: int, row_cost: float) -> None:
        if num_draft_tokens < 1:
            raise ValueError(f"num_draft_tokens must be at least 1 here, not {num_draft_tokens}")
        self.num_draft_tokens = num_draft_tokens
        self.row_cost = row_cost
        self.num_drafted = 0
        self.num_accepted = 0

    def propose(self, chunks: Seq[ScheduledChunk]) -> Proposal:
        """Drafts for a step's decoding sequences, or none where they would not pay."""
        decoding = [chunk.sequence for chunk in takewhile(is_decode, chunks)]
        if not 0 < len(decoding) <= MAX_SEQUENCES:
            return Proposal()
        least_chance = self.least_chance(len(decoding))
        drafts: dict[Sequence, list[int]] = {}
        gain = 0.0
        for sequence in decoding:
            found, hoped = self._drafts(sequence, least_chance)
            if found:
                drafts[sequence] = found
                gain += hoped
        if gain < LEAST_GAIN * len(decoding):
            return Proposal()
        if any(sequence.num_pending for sequence in decoding):
            return Proposal(waits=True)
        return Proposal(drafts)

    def least_chance(self, num_rows: int) -> float:
        """How likely a draft must be beside so many rows.

        A row adds `row_cost / (1 + row_cost * num_rows)` to a step's time, and each of the rows a token:
        what a draft may bring must be more than what the same time brings without it.
        """
        cost = self.row_cost * num_rows
        return max(LEAST_CHANCE, cost / (1 + cost))

    def count(self, *, num_drafted: int, num_accepted: int) -> None:
        """A step with drafts was computed."""
        self.num_drafted += num_drafted
        self.num_accepted += num_accepted

    def _drafts(self, sequence: Sequence, least_chance: float) -> tuple[list[int], float]:
        """What the sequence may say next, and how many tokens of it are to be hoped for."""
        if not sequence.may_draft or is_adjusted(sequence.request.sampling, sequence.num_output_tokens):
            return [], 0.0  # adjusted scores depend on the tokens before
        if sequence.drafter is None:
            sequence.drafter = NgramDrafter()
        drafter = sequence.drafter
        if not drafter.read(sequence.token_ids, len(sequence.token_ids) - sequence.num_pending):
            return [], 0.0
        room = min(self.num_draft_tokens, sequence.num_wanted_tokens - 1)
        drafts = drafter.drafts(room, least_chance=least_chance)
        chance = drafter.chance()
        return drafts, sum(chance**ahead for ahead in range(1, len(drafts) + 1))


def is_decode(chunk: ScheduledChunk) -> bool:
    """Whether the chunk is a sequence's last token, and one of its output's."""
    return chunk.num_tokens == 1 and chunk.samples and chunk.start >= chunk.sequence.num_prompt_tokens


def num_draft_rows(*, num_draft_tokens: int, max_num_seqs: int) -> int:
    """How many rows a step may have beside those of its sequences."""
    return num_draft_tokens * min(max_num_seqs, MAX_SEQUENCES)
