"""The fields that chat and completions share: how tokens are chosen, how many, and how they are delivered."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator
from pydantic_core import PydanticCustomError

from console.gateway.endpoints.wire import Strict, Wire
from console.gateway.errors import unsupported
from console.gateway.pipeline.request import PipelineRequest, UsageInStream
from inference.protocol.requests import Sampling

MAX_CHOICES = 8
MAX_STOPS = 64  # OpenAI's are 4; clients for other servers send more
MAX_STOP_CHARACTERS = 256
MAX_TOKEN_IDS = 1024  # in stop_token_ids and logit_bias
NO_NUL = r"^[^\x00]*$"  # PostgreSQL stores no NUL

Integer = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=NO_NUL)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP_CHARACTERS)]
Label = Annotated[str, StringConstraints(max_length=200, pattern=NO_NUL)]


class StreamOptions(Strict):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None  # vLLM's: tokens so far, in every chunk
    include_obfuscation: Literal[False] | None = None  # padding against size side channels: not offered


class GenerationRequest(Wire):
    """Wire fields of every generating endpoint, beside its prompt."""

    model: Name
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] = []
    seed: Integer | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Annotated[dict[str, float], Field(max_length=MAX_TOKEN_IDS)] = {}
    user: Label = ""
    # beyond OpenAI, in vLLM's names
    top_k: Integer = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    min_tokens: Integer = 0
    ignore_eos: bool = False
    stop_token_ids: Annotated[list[Integer], Field(max_length=MAX_TOKEN_IDS)] = []
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True

    @field_validator("logit_bias")
    @classmethod
    def keys_are_token_ids(cls, value: dict[str, float]) -> dict[str, float]:
        for key in value:
            if not (key.isascii() and key.isdigit() and len(key) < 10):
                raise PydanticCustomError("token_id", "keys must be token ids in decimal")
        return value

    @field_validator("top_k")
    @classmethod
    def minus_one_is_off(cls, value: int) -> int:
        return 0 if value == -1 else value  # vLLM's word for "off"

    @model_validator(mode="after")
    def stream_options_need_a_stream(self) -> GenerationRequest:
        if self.stream_options is not None and not self.stream:
            raise unsupported("stream_options", "it is only allowed when 'stream' is true")
        return self

    @property
    def usage_in_stream(self) -> UsageInStream:
        options = self.stream_options or StreamOptions()
        return UsageInStream(bool(options.include_usage), bool(options.continuous_usage_stats))

    @property
    def end_user(self) -> str:
        return self.user

    @property
    def silent_on(self) -> frozenset[str]:
        """Fields left out, for which the model's own defaults hold."""
        return frozenset(MODELS_OWN) - self.model_fields_set

    @abstractmethod
    def to_pipeline(self) -> PipelineRequest: ...

    def sampling(self, *, max_tokens: int | None, logprobs: int | None) -> Sampling:
        """Bounds are the engine's own; it raises `InvalidValue` naming the field."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in SAME_NAME}
        return Sampling(
            **fields,
            max_tokens=max_tokens,
            logprobs=logprobs,
            logit_bias={int(key): bias for key, bias in self.logit_bias.items()},
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop),
            stop_token_ids=tuple(self.stop_token_ids),
        )


SAME_NAME = (
    "seed",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "min_tokens",
    "ignore_eos",
    "include_stop_str_in_output",
    "skip_special_tokens",
)
MODELS_OWN = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
