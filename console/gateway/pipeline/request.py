"""A request as the pipeline takes it, the same for every generating endpoint and every transport."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from inference.protocol.requests import ChatMessage, Sampling


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt from exactly one source."""

    messages: tuple[ChatMessage, ...] | None = None
    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    wants_text: bool = False  # of token ids: what they say
    param: str = "prompt"  # the wire field to name when the prompt is at fault


@dataclass(frozen=True, slots=True)
class UsageInStream:
    """The chunks of a stream that carry its usage."""

    at_end: bool = False  # in a last chunk without choices
    so_far: bool = False  # in every chunk, as far as it has come


@dataclass(frozen=True, slots=True)
class PipelineRequest:
    """A valid request. Choice i belongs to prompt i // n."""

    model: str
    prompts: tuple[Prompt, ...]
    n: int
    sampling: Sampling
    default_max_tokens: int | None = None  # for a request that names none: as many, or as the context leaves
    max_tokens_param: str = "max_tokens"  # the wire field that named the sampling's
    user: str = ""  # keeps a user on one arm of a rollout
    end_user: str = ""  # recorded in the ledger
    silent_on: frozenset[str] = frozenset()  # fields of `sampling` that the request left to the model

    @property
    def max_tokens(self) -> int | None:
        """Output tokens of a choice at most; None: what the context leaves."""
        return self.sampling.max_tokens or self.default_max_tokens

    @property
    def num_choices(self) -> int:
        return self.n * len(self.prompts)

    def with_defaults(self, defaults: Mapping[str, float]) -> PipelineRequest:
        """As the revision that answers would have it where the request is silent."""
        said: dict[str, Any] = {name: value for name, value in defaults.items() if name in self.silent_on}
        return replace(self, sampling=replace(self.sampling, **said)) if said else self
