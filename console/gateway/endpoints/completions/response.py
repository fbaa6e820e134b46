"""The answers of /v1/completions."""

from __future__ import annotations

from collections import defaultdict
from typing import Self

from console.gateway.endpoints.completions.schema import CompletionRequest
from console.gateway.endpoints.generation_fields import GenerationRequest
from console.gateway.endpoints.logprobs import CompletionLogprobs
from console.gateway.endpoints.response import NO_USAGE, GenerationResponse, Json, Text, encode, ending
from console.gateway.pipeline.accepted import Accepted
from console.gateway.pipeline.request import UsageInStream
from inference.protocol.events import Delta, Finish


class CompletionResponse(GenerationResponse):
    """`text_completion`, whole or in chunks that are of the same kind."""

    OBJECT = "text_completion"
    CHUNK_OBJECT = "text_completion"

    def __init__(self, accepted: Accepted, *, usage: UsageInStream = NO_USAGE, echo: bool) -> None:
        super().__init__(accepted, usage=usage)
        self._echo = echo
        self._told: defaultdict[int, CompletionLogprobs] = defaultdict(CompletionLogprobs)  # by choice

    @classmethod
    def for_request(cls, accepted: Accepted, wire: GenerationRequest) -> Self:
        assert isinstance(wire, CompletionRequest)
        return cls(accepted, usage=wire.usage_in_stream, echo=wire.echo)

    def opening(self) -> list[Json]:
        if not self._echo:
            return []
        return [self._part(index, self._prompt(index)) for index in range(self._accepted.request.num_choices)]

    def delta(self, index: int, delta: Delta) -> Text | None:
        if not delta.text and not delta.logprobs:
            return None
        if (logprobs := self._logprobs(index, delta)) is not None:
            return encode({**self._part(index, delta.text), "logprobs": logprobs})
        return f'{{"index":{index},"text":{encode(delta.text)},"logprobs":null,"finish_reason":null}}'

    def finish(self, index: int, finish: Finish) -> Json:
        return {**self._part(index, ""), **ending(finish)}

    def choice(self, index: int, delta: Delta, finish: Finish) -> Json:
        text = self._prompt(index) + delta.text if self._echo else delta.text
        return {
            **self._part(index, text),
            "logprobs": self._logprobs(index, delta, delta.text),
            **ending(finish),
        }

    def _prompt(self, index: int) -> str:
        return self._accepted.prompts[index // self._accepted.request.n].text or ""

    @staticmethod
    def _part(index: int, text: str) -> Json:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": None}

    def _logprobs(self, index: int, delta: Delta, text: str | None = None) -> Json | None:
        if self._accepted.request.sampling.logprobs is None:
            return None
        return self._told[index].lists(delta.logprobs, text=text)
