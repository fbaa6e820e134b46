"""What crosses the engine's door: frozen values, standard library only.

A request goes in as `GenerateRequest`; out come `Delta`s and exactly one `Finish`. What can be
seen to be wrong before queueing is raised as a `Refusal`; what goes wrong later travels in `Finish.error`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class FinishReason(StrEnum):
    """How a request ended; each accepted request gets exactly one."""

    STOP = "stop"  # end-of-sequence token, stop token or stop string
    LENGTH = "length"  # max_tokens, or the model's context is full
    BUDGET = "budget"  # the allowance ran out and no more was granted
    CANCELLED = "cancelled"  # the client left, or somebody with the right to cancelled it
    FAILED = "failed"  # see Finish.error


class Refusal(Exception):
    """A request that was not accepted. `code` is stable; `param` names the wire field at fault."""

    code = "invalid_value"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidValue(Refusal):
    """A value that the engine cannot honour."""


class ContextLengthExceeded(Refusal):
    """Prompt (and output asked for) do not fit the model's context or the KV pool."""

    code = "context_length_exceeded"


class PromptTooCostly(InvalidValue):
    """The model's chat template or tokenizer takes more time or memory for this prompt than it may."""

    code = "prompt_too_costly"


class UnknownRevision(Refusal):
    """No revision of that id is served here."""

    code = "model_not_found"


class NotReady(Refusal):
    """The revision is loading, draining or down; worth another try."""

    code = "engine_unavailable"

    def __init__(self, message: str, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class QueueFull(NotReady):
    """The bounded queue holds as much as it may."""

    code = "engine_overloaded"


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


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token with its log-probability (natural logarithm, after no penalty and temperature 1)."""

    token_id: int
    text: str
    raw: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()  # most likely first; the chosen token only where it is one of them
    is_shown: bool = True  # False: a special token that the text leaves out


@dataclass(frozen=True, slots=True)
class Delta:
    """New output. Text may lag behind tokens (an unfinished character, a possible stop string)."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()

    def merged(self, later: Delta) -> Delta:
        """This delta and the one after it, as one: how slow readers are served."""
        return Delta(
            text=self.text + later.text,
            token_ids=self.token_ids + later.token_ids,
            logprobs=self.logprobs + later.logprobs,
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as the engine counted them. A stop token or the end-of-sequence token counts as output."""

    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompt's, those found in the prefix cache
    completion_tokens: int = 0


class WaitReason(StrEnum):
    """What a request in the queue waits for."""

    BLOCKS = "blocks"  # of the KV pool
    BATCH = "batch"  # a place in it
    STEP = "step"  # its tokens do not fit into this step beside the others'
    PREFIX = "prefix"  # another request is computing the same beginning


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a request's life, in seconds since it arrived, with what explains it.

    Attributes: `reason` (a `WaitReason`) of queue and preempted, `cached_tokens` of the first prefill, and of
    decode its `tokens` and `batch`, the most sequences that a step of it ran.
    """

    name: str  # "queue", "prefill", "decode", "preempted", "allowance"
    start: float
    end: float
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds, by the engine's own clock."""

    queue_seconds: float = 0.0
    first_token_seconds: float | None = None  # from arrival (TTFT)
    total_seconds: float = 0.0
    inter_token_seconds: tuple[float, ...] = ()  # every gap between output tokens (ITL)
    num_preemptions: int = 0
    spans: tuple[Span, ...] = ()  # without gaps, from arrival to the end
    arrived_at: float | None = None  # time.monotonic(), where the engine shares the reader's clock


@dataclass(frozen=True, slots=True)
class EngineError:
    """Why a request failed after it was accepted."""

    code: str  # queue_timeout, first_token_timeout, token_timeout, request_timeout, engine_error, ...
    message: str
    is_retryable: bool = False


@dataclass(frozen=True, slots=True)
class Finish:
    """The last thing that a request's stream yields."""

    reason: FinishReason
    usage: Usage
    timings: Timings = field(default_factory=Timings)
    matched_stop: str | int | None = None
    error: EngineError | None = None


Event = Delta | Finish


@dataclass(frozen=True, slots=True)
class Device:
    """Where models are loaded, as it was when the placement started."""

    name: str  # "cpu" or "cuda"
    dtype: str  # what "auto" counts as on it; on a CPU each model's own steps decide, when it is loaded
    total_bytes: int
    free_bytes: int  # on a machine, of its control group where that has a limit
    keeps_bfloat16: bool = False  # matrices of such files, beside float32 activations


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a served revision can do."""

    revision: str
    architecture: str
    max_model_len: int
    vocab_size: int
    batching: bool  # False: the sequential engine serves it, one request at a time
    quantization: str | None
    dtype: str
    device: str
    weight_bytes: int
    has_chat_template: bool
    note: str = ""  # why it is served the way it is, where that needs a word
    kv_bytes: int = 0  # the KV pool
    memory_bytes: int = 0  # measured after the load: weights and KV pool, and on a GPU what its steps need
    sampling: Mapping[str, float] = field(default_factory=dict)  # its own, where a request is silent
    why_dtype: str = ""  # what the dtype was chosen by, where the settings left that open


@dataclass(frozen=True, slots=True)
class PromptStats:
    """How a revision's template and tokenizer are doing, which run in a process of their own."""

    num_waiting: int = 0  # prompts that are being prepared, or wait for that
    oldest_since: float | None = None  # time.monotonic(): when the first of them came
    due_at: float | None = None  # time.monotonic(): when the one in work is done, or is ended
    num_ended: int = 0  # processes that overran or died, since the load
    error: str = ""  # why prompts cannot be prepared; "" where they can


@dataclass(frozen=True, slots=True)
class RevisionStats:
    """A snapshot of one engine; reading it never waits for the loop."""

    revision: str
    num_running: int = 0
    num_waiting: int = 0
    num_blocks: int = 0
    num_blocks_used: int = 0  # held by live sequences
    num_blocks_cached: int = 0  # free, but remembered by the prefix cache
    num_prefix_queries: int = 0  # prompt tokens looked up, since start
    num_prefix_hits: int = 0  # prompt tokens found, since start
    num_preemptions: int = 0
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    num_drafted_tokens: int = 0  # guessed and computed ahead, since start
    num_accepted_tokens: int = 0  # of them, those that were right
    num_steps: int = 0
    last_step_at: float | None = None  # time.monotonic()
    last_step_seconds: float = 0.0
    has_work: bool = False
    running: tuple[str, ...] = ()  # request ids in the batch
    waits_for: WaitReason | None = None  # the queue's head, as the last step found it
    is_alive: bool = True
    error: str = ""
    prompts: PromptStats = field(default_factory=PromptStats)


@dataclass(frozen=True, slots=True)
class Stats:
    """A snapshot of a placement and all that it serves."""

    revisions: tuple[RevisionStats, ...] = ()
    is_draining: bool = False


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a load has come."""

    # "measuring dtypes, once", "reading weights", "planning memory", "compiling layers, once", "warming up",
    # "ready"
    stage: str
    fraction: float  # 0..1
