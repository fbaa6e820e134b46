"""Sequences that hold no blocks: new ones, within bounds, and preempted ones, always."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator

from inference.protocol.errors import QueueFull
from inference.scheduling.sequence import Sequence


class WaitingQueue:
    """In order of rank. The bounds count what was never admitted: a preempted sequence is never refused."""

    def __init__(self, *, max_requests: int, max_tokens: int) -> None:
        self.max_requests = max_requests
        self.max_tokens = max_tokens
        self.num_new = 0
        self.num_new_tokens = 0  # of their prompts
        self._sequences: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._sequences)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(tuple(self._sequences))  # a snapshot: it may change while one walks along it

    def check_room(self, num_prompt_tokens: int) -> None:
        """Raise `QueueFull` where one more request would pass a bound. A lone request always fits."""
        if self.num_new >= self.max_requests:
            raise QueueFull(f"{self.num_new} requests are waiting already")
        if self.num_new and self.num_new_tokens + num_prompt_tokens > self.max_tokens:
            raise QueueFull(f"{self.num_new_tokens} prompt tokens are waiting already")

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence, within the bounds."""
        self.check_room(sequence.num_prompt_tokens)
        self.num_new += 1
        self.num_new_tokens += sequence.num_prompt_tokens
        insort(self._sequences, sequence, key=_rank)

    def put_back(self, sequence: Sequence) -> None:
        """Queue a preempted sequence again, at the place of its rank."""
        insort(self._sequences, sequence, key=_rank)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out: it was admitted, or it ended."""
        self._sequences.remove(sequence)
        if sequence.num_preemptions == 0:
            self.num_new -= 1
            self.num_new_tokens -= sequence.num_prompt_tokens


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.rank
