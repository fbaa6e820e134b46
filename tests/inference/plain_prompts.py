"""A prompt queue without a process, for engines over models that lie in no folder."""

from __future__ import annotations

from inference.models.loader import LoadedModel
from inference.prompt_process.queue import PromptQueue
from inference.protocol.requests import TokenizedPrompt, TokenizeRequest
from inference.protocol.stats import PromptStats
from inference.text.prompt import tokenize


class PlainQueue(PromptQueue):
    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded

    async def tokenize(
        self, request: TokenizeRequest, *, vocab_size: int, max_model_len: int
    ) -> TokenizedPrompt:
        return tokenize(self._loaded, request)

    def stats(self) -> PromptStats:
        return PromptStats()

    def close(self) -> None:
        pass
