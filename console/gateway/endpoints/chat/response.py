"""The answers of /v1/chat/completions."""

from __future__ import annotations

from console.gateway.endpoints.logprobs import chat_logprobs
from console.gateway.endpoints.response import Answer, Json, Text, encode, ending
from inference.protocol.events import Delta, Finish


class ChatAnswer(Answer):
    """`chat.completion`, or its chunks: the role first, then content, then the reason."""

    OBJECT = "chat.completion"
    CHUNK_OBJECT = "chat.completion.chunk"

    def opening(self) -> list[Json]:
        return [
            self._part(index, {"role": "assistant", "content": "", "refusal": None}, None)
            for index in range(self._accepted.demand.num_choices)
        ]

    def delta(self, index: int, delta: Delta) -> Text | None:
        if not delta.text and not delta.logprobs:
            return None
        if (logprobs := self._logprobs(delta)) is not None:
            return encode(self._part(index, {"content": delta.text}, logprobs))
        content = encode(delta.text)  # once for each token: only this is new in it
        return f'{{"index":{index},"delta":{{"content":{content}}},"logprobs":null,"finish_reason":null}}'

    def finish(self, index: int, finish: Finish) -> Json:
        return {**self._part(index, {}, None), **ending(finish)}

    def choice(self, index: int, delta: Delta, finish: Finish) -> Json:
        message = {"role": "assistant", "content": delta.text, "refusal": None}
        return {"index": index, "message": message, "logprobs": self._logprobs(delta), **ending(finish)}

    @staticmethod
    def _part(index: int, delta: Json, logprobs: Json | None) -> Json:
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}

    def _logprobs(self, delta: Delta) -> Json | None:
        num_top = self._accepted.demand.sampling.logprobs
        if num_top is None:
            return None
        return {"content": chat_logprobs(delta.logprobs, num_top=num_top), "refusal": None}
