"""A request as the engine holds it: its tokens, its blocks, how far it is computed. Pure Python, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count

from inference.protocol.requests import GenerateRequest
from inference.scheduling.ngram_drafter import NgramDrafter
from inference.scheduling.step_input import has_penalty

_table_ids = count()  # never the same twice: request ids come again

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
    block_table: tuple[int, ...] = ()  # KV block ids, in order
    table_id: int = field(default_factory=_table_ids.__next__)  # another one each time it gets its blocks
    block_hashes: list[bytes] = field(default_factory=list)  # of its full blocks, as far as needed
    num_computed_tokens: int = 0  # tokens whose keys and values are in the pool
    num_cached_tokens: int = 0  # of the prompt's, those that the prefix cache gave at first admission
    num_preemptions: int = 0
    num_pending: int = 0  # of the last `token_ids`, those that are PENDING
    status: Status = Status.WAITING
    granted_tokens: int | None = None  # output tokens granted so far
    is_grant_final: bool = False
    drafter: NgramDrafter | None = None  # proposes what it says next, once that was asked for
    may_draft: bool = True
    num_prompt_tokens: int = field(init=False)
    has_penalty: bool = field(init=False)  # its next logits depend on the tokens before

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.request.token_ids)
        self.has_penalty = has_penalty(self.request.sampling)
        if not self.token_ids:
            self.token_ids = list(self.request.token_ids)
        self.granted_tokens = self.request.granted_tokens

    @property
    def id(self) -> str:
        return self.request.request_id

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
    def is_at_grant(self) -> bool:
        """No more is granted, counting what is still to be read."""
        return self.granted_tokens is not None and self.num_output_tokens >= self.granted_tokens

    @property
    def has_used_grant(self) -> bool:
        """All that was granted has been read."""
        return self.granted_tokens is not None and self.num_known_output_tokens >= self.granted_tokens

    @property
    def is_complete(self) -> bool:
        """It has all the tokens that it may have, or will have once they are read."""
        return self.num_output_tokens >= self.max_tokens

    @property
    def num_wanted_tokens(self) -> int:
        """How many more tokens it may have now."""
        limit = self.max_tokens if self.granted_tokens is None else min(self.max_tokens, self.granted_tokens)
        return limit - self.num_output_tokens

    def take_blocks(self, block_ids: list[int], *, num_computed_tokens: int) -> None:
        """It gets a block table, which is not the one that it may have had before."""
        self.block_table = tuple(block_ids)
        self.table_id = next(_table_ids)
        self.num_computed_tokens = num_computed_tokens

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
