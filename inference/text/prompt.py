"""Prompts made ready for the queue: token ids that are never empty, all in the vocabulary, short enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from inference.protocol.errors import ContextLengthExceeded, InvalidValue
from inference.protocol.requests import TokenizedPrompt, TokenizeRequest
from inference.text.chat_template import render_chat
from inference.text.tokenizer import encode


class PromptFacts(Protocol):
    """The attributes of a loaded model that prompts depend on."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def max_model_len(self) -> int: ...


def tokenize(facts: PromptFacts, request: TokenizeRequest) -> TokenizedPrompt:
    """Tokenize and validate. Special tokens may be written out in `text`; in `messages` they are text."""
    tokenizer = facts.tokenizer
    if request.messages is not None:
        if not request.messages:
            raise InvalidValue("messages is empty", param="messages")
        ids = render_chat(tokenizer, request.messages)
        text = None
        param = "messages"
    elif request.text is not None:
        ids = encode(tokenizer, request.text, add_special_tokens=True)
        text = request.text
        param = "prompt"
    else:
        given = request.token_ids or ()
        plain = prompt_of_ids(given, vocab_size=facts.vocab_size, max_model_len=facts.max_model_len)
        if not request.wants_text:
            return plain
        return replace(plain, text=tokenizer.decode(list(given), clean_up_tokenization_spaces=False))
    return _checked(ids, max_model_len=facts.max_model_len, param=param, text=text)


def prompt_of_ids(ids: Sequence[int], *, vocab_size: int, max_model_len: int) -> TokenizedPrompt:
    """A prompt of token ids, validated without a tokenizer."""
    check_vocabulary(ids, vocab_size=vocab_size)
    return _checked(ids, max_model_len=max_model_len, param="prompt")


def _checked(
    ids: Sequence[int], *, max_model_len: int, param: str, text: str | None = None
) -> TokenizedPrompt:
    if not ids:
        raise InvalidValue("the prompt is empty", param=param)
    check_length(ids, max_model_len=max_model_len, param=param)
    return TokenizedPrompt(token_ids=tuple(ids), max_output_tokens=max_model_len - len(ids), text=text)


def check_vocabulary(ids: Sequence[int], *, vocab_size: int, param: str = "prompt") -> None:
    """Refuse ids that the model has no embedding for: one of them would fail a whole batch."""
    for token_id in ids:
        if not 0 <= token_id < vocab_size:
            raise InvalidValue(
                f"token id {token_id} is not in the vocabulary of {vocab_size} tokens", param=param
            )


def check_length(ids: Sequence[int], *, max_model_len: int, param: str) -> None:
    """Refuse prompts that leave no room for one token of output."""
    if len(ids) >= max_model_len:
        raise ContextLengthExceeded(
            f"the prompt has {len(ids)} tokens; this model's context holds {max_model_len}, "
            "one of them for the output at least",
            param=param,
        )
