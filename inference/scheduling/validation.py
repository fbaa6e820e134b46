"""Refuses what cannot be computed, before it is queued: the engine never meets a bad value."""

from __future__ import annotations

from inference.protocol.errors import ContextLengthExceeded, InvalidValue
from inference.protocol.requests import GenerateRequest


def validate(request: GenerateRequest, *, vocab_size: int, max_context: int) -> int:
    """The request's greatest number of output tokens. Raises `Refusal`, with the wire field at fault."""
    num_prompt_tokens = len(request.token_ids)
    if num_prompt_tokens == 0:
        raise InvalidValue("the prompt is empty", param="prompt")
    if min(request.token_ids) < 0 or max(request.token_ids) >= vocab_size:
        raise InvalidValue(f"the prompt has a token id outside 0..{vocab_size - 1}", param="prompt")
    sampling = request.sampling
    for name, token_ids in (
        ("stop_token_ids", sampling.stop_token_ids),
        ("logit_bias", tuple(sampling.logit_bias)),
    ):
        if any(not 0 <= token_id < vocab_size for token_id in token_ids):
            raise InvalidValue(f"{name} has a token id outside 0..{vocab_size - 1}", param=name)
    if request.allowance is not None and request.allowance < 0:
        raise InvalidValue("the allowance is negative")
    return _max_output_tokens(num_prompt_tokens, sampling.max_tokens, max_context)


def _max_output_tokens(num_prompt_tokens: int, wanted: int | None, max_context: int) -> int:
    room = max_context - num_prompt_tokens
    if room < 1:
        raise ContextLengthExceeded(
            f"the context holds {max_context} tokens, output included; the prompt has {num_prompt_tokens}",
            param="prompt",
        )
    if wanted is not None and wanted > room:
        raise ContextLengthExceeded(
            f"the context holds {max_context} tokens; the prompt has {num_prompt_tokens}, "
            f"max_tokens asks for {wanted}",
            param="max_tokens",
        )
    return room if wanted is None else wanted
