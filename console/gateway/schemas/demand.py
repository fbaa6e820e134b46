"""What a wire request comes down to, whichever endpoint and door it came by: the pipeline's input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from inference.protocol import ChatMessage, Sampling

Endpoint = Literal["chat.completions", "completions"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt from exactly one source."""

    messages: tuple[ChatMessage, ...] | None = None
    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    param: str = "prompt"  # the wire field to name when the prompt is at fault


@dataclass(frozen=True, slots=True)
class Demand:
    """A valid request. Choice i belongs to prompt i // n."""

    endpoint: Endpoint
    model: str
    prompts: tuple[Prompt, ...]
    n: int
    sampling: Sampling
    user: str = ""  # keeps a user on one arm of a rollout
    end_user: str = ""  # recorded in the ledger

    @property
    def num_choices(self) -> int:
        return self.n * len(self.prompts)
