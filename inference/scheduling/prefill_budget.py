"""How much prefill a step may take beside decode: as much as keeps the pauses between tokens short.

A long prompt in one step would halt every stream for as long as it computes. So in steady decode a step with
prefill is to take no longer than a few steps without; both are measured while the engine runs. Where one step
can bring first tokens to many who wait, it does, unless a few short ones can as well: the sooner they decode,
the fuller are the steps after it.
In short steps a prompt leaves half of what there is to the next, or short ones would queue behind a long one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from statistics import median

from inference.scheduling.sequence import Sequence
from inference.scheduling.step_plan import ScheduledChunk

STREAMS_PER_FIRST_TOKEN = 24  # that may pause for it
FEW_STEPS = 4  # in which those who wait may as well be served without such a pause
LONGEST = 2.5  # what a step with prefill may take, in steps without
SMALLEST = 256  # prompt tokens: less would waste the device's width
SMALLEST_SHARE = 64  # of a prompt that shares a step with others
NUM_REMEMBERED = 15  # steps of each kind


@dataclass(slots=True)
class StepBudget:
    """Prompt tokens that one step may still take."""

    num_tokens: int
    is_shared: bool = False  # among those who wait

    def share(self, *, is_last: bool) -> int:
        """What the next prompt may take; `is_last`: nobody waits behind it."""
        return self.num_tokens if is_last or not self.is_shared else share(self.num_tokens)


class PrefillBudget:
    """Measures steps, and says what the next may hold."""

    def __init__(self, *, max_batch_tokens: int) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._decode_seconds: deque[float] = deque(maxlen=NUM_REMEMBERED)
        self._token_seconds: deque[float] = deque(maxlen=NUM_REMEMBERED)  # that a prompt token adds to a step

    def budget(self, *, num_decoding: int, waiting: Iterable[Sequence]) -> StepBudget:
        """What may join `num_decoding` sequences, for those who wait.

        `waiting` have no token yet, in their order.
        """
        room = self._max_batch_tokens - num_decoding
        if num_decoding == 0 or not (self._decode_seconds and self._token_seconds):
            return StepBudget(room)
        seconds = (LONGEST - 1.0) * median(self._decode_seconds)
        budget = max(SMALLEST, int(seconds / max(exceeded_by_few(self._token_seconds), 1e-9)))
        num_first_tokens, num_tokens = within(waiting, room)
        is_worth_it = STREAMS_PER_FIRST_TOKEN * num_first_tokens >= num_decoding
        if is_worth_it and num_tokens > FEW_STEPS * budget:
            return StepBudget(min(room, max(budget, num_tokens)))
        return StepBudget(min(room, budget), is_shared=True)

    def observe(self, chunks: Seq[ScheduledChunk], seconds: float) -> None:
        """A step of these chunks took so long."""
        num_prefill = sum(chunk.num_tokens for chunk in chunks if chunk.num_tokens > 1)
        if num_prefill == 0:
            self._decode_seconds.append(seconds)
        elif num_prefill >= SMALLEST // 2:
            beside = (
                median(self._decode_seconds) if self._decode_seconds and chunks[0].num_tokens == 1 else 0.0
            )
            self._token_seconds.append(max(0.0, seconds - beside) / num_prefill)


def exceeded_by_few(values: Iterable[float]) -> float:
    """By one of five at most: tokens cost more the longer their prompt is, so the median is too little."""
    ordered = sorted(values)
    return ordered[4 * (len(ordered) - 1) // 5]


def share(budget: int) -> int:
    """What a prompt takes of a budget that others share."""
    return min(budget, max(SMALLEST_SHARE, budget // 2))


def within(waiting: Iterable[Sequence], room: int) -> tuple[int, int]:
    """How many of these, in their order, can be computed whole in `room` tokens, and their tokens.

    One that would take half of the room is none of many.
    """
    count = num_tokens = 0
    for sequence in waiting:
        if sequence.num_uncomputed_tokens > room // 2 or num_tokens + sequence.num_uncomputed_tokens > room:
            break
        num_tokens += sequence.num_uncomputed_tokens
        count += 1
    return count, num_tokens
