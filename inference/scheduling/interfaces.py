"""What the loop needs of the parts that touch tensors, so that it can be tested without any."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Any, Protocol

from inference.protocol.events import TokenLogprob
from inference.scheduling.step_input import SamplingInput, StepInput


@dataclass(frozen=True, slots=True)
class Sampled:
    """What was chosen for one row of logits. `token_id` is None where they were not finite."""

    token_id: int | None
    logprob: TokenLogprob | None = None  # where the request asks for log-probabilities


class Runner(Protocol):
    """Runs a step through the model. `num_blocks` and `block_size` describe the KV pool that it owns."""

    num_blocks: int
    block_size: int

    def run(self, step: StepInput) -> Any:
        """Logits `[num_sampling, vocab]`, in the chunks' order; writes the chunks' keys and values."""

    def zero_blocks(self, block_ids: Seq[int]) -> None:
        """Zero blocks that may hold NaN: attention masks what is past a sequence's end; 0 x NaN is NaN."""


class Sampler(Protocol):
    """Chooses the next token of every row of logits, each by its own parameters."""

    def sample(self, logits: Any, sampling: SamplingInput) -> list[Sampled]:
        """One token a row. Depends on the row alone: its logits, parameters, seed and position."""


class Detokenizer(Protocol):
    """Turns one sequence's output tokens into text, holding back what may yet become something else."""

    matched_stop: str | None  # the stop string that was found

    def push(self, token_ids: list[int]) -> str:
        """Text that is certain now. At a stop string, sets `matched_stop` and returns what precedes it."""

    def flush(self) -> str:
        """What was held back, when the sequence ends without a stop string."""
