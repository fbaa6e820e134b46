"""POST /v1/completions: the request as OpenAI describes it, what of it works here, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from console.gateway.endpoints.generation_fields import GenerationRequest, Integer
from console.gateway.endpoints.wire import UnsupportedField
from console.gateway.errors import invalid, unsupported
from console.gateway.pipeline.request import PipelineRequest, Prompt

MAX_PROMPTS = 32
DEFAULT_MAX_TOKENS = 16  # OpenAI's
MAX_LOGPROBS = 20

TokenIds = Annotated[list[Integer], Field(min_length=1)]


class CompletionRequest(GenerationRequest):
    prompt: (
        str
        | TokenIds
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    max_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool = False
    best_of: Annotated[int, Field(ge=1)] | None = None

    REFUSED: ClassVar[Mapping[str, UnsupportedField]] = {
        "suffix": UnsupportedField("models here do not fill in the middle", ("",)),
    }

    @model_validator(mode="after")
    def fields_agree(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != self.n:
            raise unsupported("best_of", "it must equal 'n'")
        if self.echo and self.logprobs is not None:
            raise unsupported(
                "echo", "the prompt's tokens have no logprobs here; leave out 'echo' or 'logprobs'"
            )
        if self.max_tokens is None and self.min_tokens > DEFAULT_MAX_TOKENS:
            raise invalid(
                f"'min_tokens' is larger than 'max_tokens', which is {DEFAULT_MAX_TOKENS} when not given.",
                param="min_tokens",
            )
        return self

    def to_pipeline(self) -> PipelineRequest:
        return PipelineRequest(
            model=self.model,
            prompts=tuple(self._prompts()),
            n=self.n,
            sampling=self.sampling(max_tokens=self.max_tokens, logprobs=self.logprobs),
            default_max_tokens=DEFAULT_MAX_TOKENS,
            user=self.user,
            end_user=self.end_user,
            silent_on=self.silent_on,
        )

    def _prompts(self) -> list[Prompt]:
        if isinstance(self.prompt, str):
            return [Prompt(text=self.prompt)]
        if all(isinstance(one, int) for one in self.prompt):
            return [self._prompt(self.prompt, "prompt")]
        if not self.prompt:
            raise invalid("'prompt' is empty.", param="prompt")
        return [self._prompt(one, f"prompt[{i}]") for i, one in enumerate(self.prompt)]

    def _prompt(self, one: object, param: str) -> Prompt:
        if isinstance(one, str):
            return Prompt(text=one, param=param)
        assert isinstance(one, list)
        return Prompt(token_ids=tuple(one), param=param, wants_text=self.echo)
