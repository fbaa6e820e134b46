"""The answers of /v1/chat/completions."""

from __future__ import annotations

from collections.abc import Sequence

from console.gateway.answers.answer import Answer, Json, Text, encode, ending, finite
from inference.protocol import Delta, Finish, TokenLogprob


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
        if self._accepted.demand.sampling.logprobs is None:
            return None
        tokens = [{**_token(one), "top_logprobs": _tokens(one.top)} for one in delta.logprobs]
        return {"content": tokens, "refusal": None}


def _tokens(tokens: Sequence[TokenLogprob]) -> list[Json]:
    return [_token(one) for one in tokens]


def _token(token: TokenLogprob) -> Json:
    return {"token": token.text, "logprob": finite(token), "bytes": list(token.raw)}
