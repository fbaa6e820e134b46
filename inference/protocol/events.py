"""What comes out of the engine: `Delta`s and exactly one `Finish` a request, with usage and timings."""

from __future__ import annotations

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
