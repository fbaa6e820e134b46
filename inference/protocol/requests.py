"""What goes into the engine: frozen values, checked when they are made. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from inference.protocol.errors import InvalidValue


@dataclass(frozen=True, slots=True)
class Owner:
    """Who a request runs for: what abort-by-owner ends, and whose cached prefixes it may hit."""

    id: str  # public id of the API key, or "user:<pk>" for a console session
    salt: str  # namespace of the prefix cache; set by the server, never by the client

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("owner id is empty")


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. Defaults are OpenAI's. Checked here, so the engine never meets a bad value."""

    max_tokens: int | None = None  # None: until the model's context is full
    min_tokens: int = 0  # no stop token, stop string or end-of-sequence before this many
    temperature: float = 1.0  # 0 = greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 = off
    min_p: float = 0.0
    seed: int | None = None  # None: drawn per request
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0  # over prompt and output, as Hugging Face defines it
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None  # None: none; n: the chosen token's and the n most likely
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True

    def __post_init__(self) -> None:
        self._bound("max_tokens", 1 if self.max_tokens is None else self.max_tokens, 1, 2**31)
        self._bound("min_tokens", self.min_tokens, 0, 2**31)
        self._bound("temperature", self.temperature, 0.0, 2.0)
        self._bound("top_p", self.top_p, 0.0, 1.0)
        self._bound("top_k", self.top_k, 0, 2**31)
        self._bound("min_p", self.min_p, 0.0, 1.0)
        self._bound("seed", 0 if self.seed is None else self.seed, -(2**63), 2**63 - 1)
        self._bound("presence_penalty", self.presence_penalty, -2.0, 2.0)
        self._bound("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        self._bound("repetition_penalty", self.repetition_penalty, 0.01, 10.0)
        self._bound("top_logprobs", self.logprobs or 0, 0, 20)
        for token_id, bias in self.logit_bias.items():
            self._bound("logit_bias", bias, -100.0, 100.0)
            self._bound("logit_bias", token_id, 0, 2**31)
        if any(not stop for stop in self.stop):
            raise InvalidValue("a stop string is empty", param="stop")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidValue("min_tokens is larger than max_tokens", param="min_tokens")

    @staticmethod
    def _bound(name: str, value: float, low: float, high: float) -> None:
        if not (math.isfinite(value) and low <= value <= high):
            raise InvalidValue(f"{name} must be between {low} and {high}, not {value}", param=name)

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds after which a request ends with an error code of its own; None = no limit."""

    queue_seconds: float | None = 120.0  # "queue_timeout"
    first_token_seconds: float | None = 300.0  # "first_token_timeout", from arrival
    between_tokens_seconds: float | None = 60.0  # "token_timeout"
    total_seconds: float | None = 1800.0  # "request_timeout"


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a conversation, as the chat template sees it."""

    role: str
    content: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class PrepareRequest:
    """Text to be made token ids by the revision's own template and tokenizer: give exactly one source."""

    revision: str
    messages: tuple[ChatMessage, ...] | None = None
    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    wants_text: bool = True  # of token ids: what they say, for an answer that repeats its prompt

    def __post_init__(self) -> None:
        given = [self.messages is not None, self.text is not None, self.token_ids is not None]
        if sum(given) != 1:
            raise ValueError("give exactly one of messages, text, token_ids")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prompt, validated against the revision: never empty, every id in the vocabulary, short enough."""

    token_ids: tuple[int, ...]
    max_output_tokens: int  # what the context leaves for output, >= 1
    text: str | None = None  # the prompt as text, where it came as text or token ids (for `echo`)
    sampling: Mapping[str, float] = field(default_factory=dict)  # the model's own, where a request is silent


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One choice to generate. `n` choices are n requests that share their prompt's blocks."""

    request_id: str  # unique among requests in flight
    revision: str
    token_ids: tuple[int, ...]
    owner: Owner
    sampling: Sampling = field(default_factory=Sampling)
    deadlines: Deadlines = field(default_factory=Deadlines)
    allowance: int | None = None  # output tokens granted so far; at it, it waits for more. None: no ledger
    priority: int = 0  # larger runs earlier
