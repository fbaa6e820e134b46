"""The answers of /v1/completions."""

from __future__ import annotations

from console.gateway.answers.answer import Answer, Json, Text, encode, ending, finite
from console.gateway.choices import Accepted
from inference.protocol import Delta, Finish


class CompletionAnswer(Answer):
    """`text_completion`, whole or in chunks that are of the same kind."""

    OBJECT = "text_completion"
    CHUNK_OBJECT = "text_completion"

    def __init__(self, accepted: Accepted, *, wants_usage: bool, echo: bool) -> None:
        super().__init__(accepted, wants_usage=wants_usage)
        self._echo = echo
        self._offsets: dict[int, int] = {}  # characters of each choice that went out already

    def opening(self) -> list[Json]:
        if not self._echo:
            return []
        return [self._part(index, self._prompt(index)) for index in range(self._accepted.demand.num_choices)]

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
        return {**self._part(index, text), "logprobs": self._logprobs(index, delta), **ending(finish)}

    def _prompt(self, index: int) -> str:
        return self._accepted.prompts[index // self._accepted.demand.n].text or ""

    @staticmethod
    def _part(index: int, text: str) -> Json:
        return {"index": index, "text": text, "logprobs": None, "finish_reason": None}

    def _logprobs(self, index: int, delta: Delta) -> Json | None:
        if self._accepted.demand.sampling.logprobs is None:
            return None
        offsets = []
        for token in delta.logprobs:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(token.text)
        return {
            "tokens": [one.text for one in delta.logprobs],
            "token_logprobs": [finite(one) for one in delta.logprobs],
            "top_logprobs": [{top.text: finite(top) for top in one.top} for one in delta.logprobs],
            "text_offset": offsets,
        }
