"""POST /v1/chat/completions: the request as OpenAI describes it, what of it works here, what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from console.gateway.endpoints.generation_fields import NO_NUL, GenerationRequest
from console.gateway.endpoints.wire import Strict, UnsupportedField
from console.gateway.errors import invalid
from console.gateway.pipeline.request import PipelineRequest, Prompt
from inference.protocol.errors import InvalidValue
from inference.protocol.requests import ChatMessage

MAX_MESSAGES = 2048
MAX_PARTS = 256
MAX_TOP_LOGPROBS = 20
EMPTY: tuple[Any, ...] = (None, [], {}, "")


def refuse(fields: Any, name: str, why: str) -> None:
    if isinstance(fields, dict) and fields.get(name):
        raise PydanticCustomError(
            "unsupported_parameter", "'{name}' is not supported: {why}", {"name": name, "why": why}
        )


def given(fields: Any) -> Any:
    """`null` means "not given": clients hand back messages with all the fields of their classes."""
    if not isinstance(fields, dict):
        return fields
    return {name: value for name, value in fields.items() if value is not None}


class TextPart(Strict):
    type: Literal["text"]
    text: str

    @model_validator(mode="before")
    @classmethod
    def only_text(cls, part: Any) -> Any:
        for name in ("image_url", "input_audio", "file", "refusal"):
            refuse(part, name, "content parts are text here")
        return given(part)


class Message(Strict):
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=MAX_PARTS)]
    name: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None

    @model_validator(mode="before")
    @classmethod
    def null_is_not_given(cls, message: Any) -> Any:
        return given(message)

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class InstructionMessage(Message):
    role: Literal["system", "developer"]


class UserMessage(Message):
    role: Literal["user"]


class AssistantMessage(Message):
    """An answer that is handed back: what clients' classes hold beside its text passes where it is empty."""

    role: Literal["assistant"]

    @model_validator(mode="before")
    @classmethod
    def only_content(cls, message: Any) -> Any:
        if not isinstance(message, dict):
            return message
        for name in ("tool_calls", "function_call", "audio", "refusal"):
            refuse(message, name, "an assistant's message is text here")
        return {
            name: value for name, value in message.items() if name in cls.model_fields or value not in EMPTY
        }


AnyMessage = Annotated[InstructionMessage | UserMessage | AssistantMessage, Field(discriminator="role")]

TOOLS = "models here do not call tools yet"


class ChatRequest(GenerationRequest):
    messages: Annotated[list[AnyMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    safety_identifier: Annotated[str, StringConstraints(max_length=64, pattern=NO_NUL)] = ""

    REFUSED: ClassVar[Mapping[str, UnsupportedField]] = {
        "audio": UnsupportedField("there is no audio output"),
        "function_call": UnsupportedField(TOOLS, ("none", "auto")),
        "functions": UnsupportedField(TOOLS, ([],)),
        "metadata": UnsupportedField("completions are not stored", ({},)),
        "modalities": UnsupportedField("only text comes out", (["text"],)),
        "moderation": UnsupportedField("there is no moderation model"),
        "parallel_tool_calls": UnsupportedField(TOOLS, (True, False)),
        "prediction": UnsupportedField("predicted output does not speed up this engine"),
        "prompt_cache_key": UnsupportedField(
            "every prompt of a team shares one prefix cache, which needs no key"
        ),
        "prompt_cache_options": UnsupportedField("the prefix cache has no options", ({},)),
        "prompt_cache_retention": UnsupportedField("the prefix cache is in memory", ("in_memory",)),
        "reasoning_effort": UnsupportedField("no model here reasons with an effort", ("none",)),
        "response_format": UnsupportedField("only text is generated", ({"type": "text"},)),
        "service_tier": UnsupportedField("there is one service tier", ("auto", "default")),
        "store": UnsupportedField("completions are not stored", (False,)),
        "tool_choice": UnsupportedField(TOOLS, ("none", "auto")),
        "tools": UnsupportedField(TOOLS, ([],)),
        "verbosity": UnsupportedField("no model here has a verbosity", ("medium",)),
        "web_search_options": UnsupportedField("there is no web search"),
    }

    @model_validator(mode="after")
    def fields_agree(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise invalid("'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs")
        both = self.max_tokens is not None and self.max_completion_tokens is not None
        if both and self.max_tokens != self.max_completion_tokens:
            raise invalid("Give 'max_completion_tokens' or 'max_tokens', not both.", param="max_tokens")
        return self

    @property
    def end_user(self) -> str:
        return self.safety_identifier or self.user

    def to_pipeline(self) -> PipelineRequest:
        messages = tuple(
            ChatMessage("system" if one.role == "developer" else one.role, one.text, one.name)
            for one in self.messages
        )
        return PipelineRequest(
            model=self.model,
            prompts=(Prompt(messages=messages, param="messages"),),
            n=self.n,
            sampling=self._sampling(),
            max_tokens_param="max_tokens" if self.max_completion_tokens is None else "max_completion_tokens",
            user=self.user,
            end_user=self.end_user,
            silent_on=self.silent_on,
        )

    def _sampling(self) -> Any:
        limit = self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
        try:
            return self.sampling(
                max_tokens=limit, logprobs=(self.top_logprobs or 0) if self.logprobs else None
            )
        except InvalidValue as error:
            if error.param == "max_tokens" and self.max_completion_tokens is not None:
                error.param = "max_completion_tokens"
            raise
