"""A prompt desk without a process, for engines over models that lie in no folder."""

from __future__ import annotations

from inference.models.loader import LoadedModel
from inference.prompt_process.queue import PromptDesk
from inference.protocol.requests import Prepared, PrepareRequest
from inference.protocol.stats import PromptStats
from inference.text.prompt import prepare


class PlainDesk(PromptDesk):
    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded

    async def prepare(self, request: PrepareRequest, *, vocab_size: int, max_model_len: int) -> Prepared:
        return prepare(self._loaded, request)

    def stats(self) -> PromptStats:
        return PromptStats()

    def close(self) -> None:
        pass
