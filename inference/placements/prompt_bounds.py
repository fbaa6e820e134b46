"""Refuses prompts that cannot fit before time is spent on them: rendering and tokenizing cost by length."""

from __future__ import annotations

from inference.protocol.errors import ContextLengthExceeded
from inference.protocol.requests import PrepareRequest

MAX_CHARS_PER_TOKEN = 64  # generous: the longest tokens are runs of spaces


def check_size(request: PrepareRequest, *, max_model_len: int) -> None:
    """Raise `ContextLengthExceeded` where the input is too long however it is tokenized."""
    num_chars = len(request.text or "") + sum(len(message.content) for message in request.messages or ())
    # An empty message still costs the tokens of its role.
    num_tokens = max(len(request.token_ids or ()), len(request.messages or ()))
    if num_tokens > max_model_len or num_chars > max_model_len * MAX_CHARS_PER_TOKEN:
        raise ContextLengthExceeded(
            f"the prompt cannot fit the context of {max_model_len} tokens",
            param="messages" if request.messages is not None else "prompt",
        )
