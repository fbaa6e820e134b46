"""What is wrong with a request before it is accepted: raised, with a stable code and the field at fault."""

from __future__ import annotations


class Refusal(Exception):
    """A request that was not accepted. `code` is stable; `param` names the wire field at fault."""

    code = "invalid_value"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidValue(Refusal):
    """A value that the engine cannot honour."""


class ContextLengthExceeded(Refusal):
    """Prompt (and output asked for) do not fit the model's context or the KV pool."""

    code = "context_length_exceeded"


class PromptTooCostly(InvalidValue):
    """The model's chat template or tokenizer takes more time or memory for this prompt than it may."""

    code = "prompt_too_costly"


class UnknownRevision(Refusal):
    """No revision of that id is served here."""

    code = "model_not_found"


class NotReady(Refusal):
    """The revision is loading, draining or down; worth another try."""

    code = "engine_unavailable"

    def __init__(self, message: str, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class QueueFull(NotReady):
    """The bounded queue holds as much as it may."""

    code = "engine_overloaded"
