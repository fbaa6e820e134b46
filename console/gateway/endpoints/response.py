"""Base of responses with generated text: envelope, usage, finish reasons; events -> chunks, or one object."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, ClassVar, Self

from console.gateway.endpoints.generation_fields import GenerationRequest
from console.gateway.pipeline.accepted import Accepted
from console.gateway.pipeline.events import ChoiceEvent, KeepAlive, PipelineEvents, Settled
from console.gateway.pipeline.request import UsageInStream
from inference.protocol.events import Delta, Finish, FinishReason, Timings, Usage

Json = dict[str, Any]
Text = str  # JSON, written out

_written = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
LINE_ENDS = {0x85: r"\u0085", 0x2028: r"\u2028", 0x2029: r"\u2029"}

NO_USAGE = UsageInStream()
# OpenAI's clients know no "budget": to them it is a length, and `stop_reason` says which.
WIRE_REASON = {FinishReason.STOP: "stop", FinishReason.LENGTH: "length", FinishReason.BUDGET: "length"}


def encode(value: Any) -> Text:
    """JSON on one line for everybody: for many clients that read lines, Unicode's own line ends are some."""
    text = _written(value)
    return text if text.isascii() else text.translate(LINE_ENDS)


class GenerationResponse(ABC):
    """Turns the events of one accepted request into OpenAI's JSON, as chunks or as a whole."""

    OBJECT: ClassVar[str]
    CHUNK_OBJECT: ClassVar[str]

    def __init__(self, accepted: Accepted, *, usage: UsageInStream = NO_USAGE) -> None:
        self._accepted = accepted
        self._usage_in_stream = usage
        self._num_tokens = 0  # of the output so far, all choices
        self.usage = Usage()  # known once everything is settled
        self.timings: list[Timings] = []  # of each choice that has ended
        # A stream's chunks differ in their choice alone: what is around it is written out once.
        self._before = encode(self._envelope(self.CHUNK_OBJECT))[:-1] + ',"choices":['
        self._after = '],"usage":null}' if usage.at_end else "]}"

    @classmethod
    def for_request(cls, accepted: Accepted, wire: GenerationRequest) -> Self:
        """The response to an accepted request, as its wire form asks for it."""
        return cls(accepted, usage=wire.usage_in_stream)

    @abstractmethod
    def opening(self) -> list[Json]:
        """Choices that go out before any token, one chunk each."""

    @abstractmethod
    def delta(self, index: int, delta: Delta) -> Text | None:
        """A choice with new output; None when nothing of it shows yet."""

    @abstractmethod
    def finish(self, index: int, finish: Finish) -> Json:
        """A choice's last chunk."""

    @abstractmethod
    def choice(self, index: int, delta: Delta, finish: Finish) -> Json:
        """A whole choice."""

    async def chunks(self, events: PipelineEvents) -> AsyncGenerator[Text | None, None]:
        """Chunks in order; None where the connection only needs a sign of life."""
        async with aclosing(events):
            is_opening = True
            async for event in events:
                if is_opening:
                    is_opening = False
                    for choice in self.opening():
                        yield self._chunk(encode(choice))
                match event:
                    case ChoiceEvent(choice=index, event=Delta() as delta):
                        self._num_tokens += len(delta.token_ids)
                        if (part := self.delta(index, delta)) is not None:
                            yield self._chunk(part)
                    case ChoiceEvent(choice=index, event=Finish() as finish):
                        self.timings.append(finish.timings)
                        yield self._chunk(encode(self.finish(index, finish)))
                    case KeepAlive():
                        yield None
                    case Settled(usage=usage):
                        self.usage = usage
                        if self._usage_in_stream.at_end:
                            yield f'{self._before}],"usage":{encode(usage_json(usage))}}}'

    async def whole(self, events: PipelineEvents) -> Json:
        """The one JSON object of a plain request."""
        deltas: dict[int, Delta] = {}
        finishes: dict[int, Finish] = {}
        async with aclosing(events):
            async for event in events:
                match event:
                    case ChoiceEvent(choice=index, event=Delta() as delta):
                        deltas[index] = deltas[index].merged(delta) if index in deltas else delta
                    case ChoiceEvent(choice=index, event=Finish() as finish):
                        finishes[index] = finish
                    case Settled(usage=usage):
                        self.usage = usage
        empty = Delta(text="", token_ids=())
        choices = [self.choice(i, deltas.get(i, empty), finishes[i]) for i in sorted(finishes)]
        return {**self._envelope(self.OBJECT), "choices": choices, "usage": usage_json(self.usage)}

    def _chunk(self, choice: Text) -> Text:
        if self._usage_in_stream.so_far:
            return f'{self._before}{choice}],"usage":{encode(self._usage_so_far())}}}'
        return f"{self._before}{choice}{self._after}"

    def _usage_so_far(self) -> Json:
        prompt_tokens = self._accepted.num_prompt_tokens
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self._num_tokens,
            "total_tokens": prompt_tokens + self._num_tokens,
        }

    def _envelope(self, kind: str) -> Json:
        return {
            "id": self._accepted.request_id,
            "object": kind,
            "created": int(self._accepted.created_at),
            "model": self._accepted.arm.model,
            "system_fingerprint": self._accepted.arm.revision,
        }


def usage_json(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def timings_json(timings: Sequence[Timings]) -> Json:
    """Seconds by the engine's clock: waits of the slowest choice to start, first token of the fastest."""
    firsts = [one.first_token_seconds for one in timings if one.first_token_seconds is not None]
    return {
        "queue_seconds": max((one.queue_seconds for one in timings), default=0.0),
        "first_token_seconds": min(firsts, default=None),
        "total_seconds": max((one.total_seconds for one in timings), default=0.0),
    }


def ending(finish: Finish) -> Json:
    """`stop_reason` is vLLM's: the stop string or token id that matched, or "budget"."""
    is_spent = finish.reason is FinishReason.BUDGET
    return {
        "finish_reason": WIRE_REASON[finish.reason],
        "stop_reason": "budget" if is_spent else finish.matched_stop,
    }
