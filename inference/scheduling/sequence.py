"""A request as the engine holds it: its tokens, its blocks, how far it is computed. Pure Python, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from inference.protocol.requests import GenerateRequest, Sampling
from inference.scheduling.ngram_drafter import Drafter

PENDING = -1  # stands for a token that the device has chosen and the host has not read yet


class Status(StrEnum):
    """Where a sequence stands in the scheduler."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Sequence:
    """One choice being generated. The scheduler owns its blocks, hashes and `num_computed_tokens`."""

    request: GenerateRequest
    arrived_at: float  # engine clock, seconds
    max_tokens: int  # output tokens at most: the request's wish within the model's context
    seed: int  # the request's own, or drawn when it arrived
    rank: tuple[int, int] = (0, 0)  # smaller runs earlier: (-priority, arrival number)
    token_ids: list[int] = field(default_factory=list)  # prompt, then output
    block_table: list[int] = field(default_factory=list)  # KV block ids, in order
    block_hashes: list[bytes] = field(default_factory=list)  # of its full blocks, as far as needed
    num_computed_tokens: int = 0  # tokens whose keys and values are in the pool
    num_cached_tokens: int = 0  # of the prompt's, those that the prefix cache gave at first admission
    num_preemptions: int = 0
    num_pending: int = 0  # of the last `token_ids`, those that are PENDING
    status: Status = Status.WAITING
    allowance: int | None = None  # output tokens granted so far
    is_allowance_final: bool = False
    drafter: Drafter | None = None  # guesses what it says next, once that was asked for
    may_guess: bool = True

    def __post_init__(self) -> None:
        if not self.token_ids:
            self.token_ids = list(self.request.token_ids)
        self.allowance = self.request.allowance

    @property
    def id(self) -> str:
        return self.request.request_id

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.request.token_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_known_output_tokens(self) -> int:
        """Output tokens without those that are still to be read."""
        return self.num_output_tokens - self.num_pending

    @property
    def output_token_ids(self) -> list[int]:
        return self.token_ids[self.num_prompt_tokens :]

    @property
    def num_uncomputed_tokens(self) -> int:
        """Tokens that must run before the next one can be sampled; 1 in steady decode."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def is_prefilling(self) -> bool:
        return self.num_uncomputed_tokens > 1

    @property
    def is_at_allowance(self) -> bool:
        """No more is granted, counting what is still to be read."""
        return self.allowance is not None and self.num_output_tokens >= self.allowance

    @property
    def has_used_allowance(self) -> bool:
        """All that was granted has been read."""
        return self.allowance is not None and self.num_known_output_tokens >= self.allowance

    @property
    def is_complete(self) -> bool:
        """It has all the tokens that it may have, or will have once they are read."""
        return self.num_output_tokens >= self.max_tokens

    @property
    def num_wanted_tokens(self) -> int:
        """How many more tokens it may have now."""
        limit = self.max_tokens if self.allowance is None else min(self.max_tokens, self.allowance)
        return limit - self.num_output_tokens

    def add_token(self, token_id: int) -> None:
        """The next token is known: it takes the place of the first pending one, if there is one."""
        if self.num_pending:
            self.token_ids[-self.num_pending] = token_id
            self.num_pending -= 1
        else:
            self.token_ids.append(token_id)

    def add_pending(self) -> None:
        """The next token is being computed."""
        self.token_ids.append(PENDING)
        self.num_pending += 1

    def drop_pending(self) -> None:
        """What is still to be read is not wanted any more."""
        if self.num_pending:
            del self.token_ids[-self.num_pending :]
            self.num_pending = 0


def is_adjusted(sequence: Sequence) -> bool:
    """Whether the sequence's next logits are to be changed at all."""
    sampling = sequence.request.sampling
    return bool(
        sampling.logit_bias or has_penalty(sampling) or sequence.num_output_tokens < sampling.min_tokens
    )


def has_penalty(sampling: Sampling) -> bool:
    """Whether tokens seen before count for or against themselves."""
    return (
        sampling.presence_penalty != 0.0
        or sampling.frequency_penalty != 0.0
        or sampling.repetition_penalty != 1.0
    )


@dataclass(frozen=True, slots=True)
class Row:
    """A stretch of one sequence in a step: tokens `start .. start + num_tokens` run together.

    A row with a draft runs one token, which is guessed: it follows what the rows before it have, and what is
    sampled after it counts where the guess was right.
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
        """Whether the row reaches its sequence's last token or goes beyond: a new one is sampled after it."""
        return self.draft is not None or self.end == len(self.sequence.token_ids)

    @property
    def first_token(self) -> int:
        """The token at `start`: PENDING where only the device knows it yet."""
        return self.sequence.token_ids[self.start] if self.draft is None else self.draft


@dataclass(frozen=True, slots=True)
class Plan:
    """What one step runs: chunks of prefill and single decode tokens in one packed batch."""

    rows: tuple[Row, ...]
    guesses: bool = False  # drafts are in it, or will be once the tokens under way are known

    @property
    def num_tokens(self) -> int:
        return sum(row.num_tokens for row in self.rows)

    @property
    def sampling_sequences(self) -> list[Sequence]:
        """The sequences that get a token from this step, in the order of the logits' rows.

        One with drafts stands there once for each of them, too.
        """
        return [row.sequence for row in self.rows if row.samples]

    @property
    def sampled_positions(self) -> list[int]:
        """Beside `sampling_sequences`: which of the sequence's output tokens is sampled, from 0."""
        return [row.end - row.sequence.num_prompt_tokens for row in self.rows if row.samples]

    def without_drafts(self) -> Plan:
        """The same step, nothing guessed."""
        return Plan(tuple(row for row in self.rows if row.draft is None))
