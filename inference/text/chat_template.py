"""Conversations as token ids, by the model's own chat template.

The template runs in transformers' immutable Jinja sandbox. What users write stays text, so that nobody can
end their own message and begin one in another role: `literal_text.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from inference.protocol.errors import InvalidValue
from inference.protocol.requests import ChatMessage
from inference.text.content_format import as_content, content_format
from inference.text.literal_text import LiteralText


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[ChatMessage]) -> list[int]:
    """Token ids of the conversation, ready for the assistant's turn."""
    if not tokenizer.chat_template:
        raise InvalidValue("this model has no chat template; use the completions endpoint", param="messages")
    literal = LiteralText(tokenizer)
    return literal.encode(_render(tokenizer, _marked(messages, literal)))


def _marked(messages: Iterable[ChatMessage], literal: LiteralText) -> list[dict[str, str]]:
    rows = []
    for message in messages:
        row = {"role": message.role, "content": literal.mark(message.content)}
        if message.name is not None:
            row["name"] = literal.mark(message.name)
        rows.append(row)
    return rows


def _with_content_format(
    tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, str]]
) -> list[dict[str, Any]]:
    """The messages with contents in the format that the template renders."""
    formats = {role: content_format(tokenizer, role) for role in {row["role"] for row in rows}}
    if formats.get("user") == "lost":
        raise InvalidValue(
            "the model's chat template leaves out what the user says; use the completions endpoint",
            param="messages",
        )
    return [{**row, "content": as_content(row["content"], formats[row["role"]])} for row in rows]


def _render(tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, str]]) -> str:
    try:
        messages = _with_content_format(tokenizer, rows)
        text: Any = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except (TemplateError, TypeError, ValueError) as error:
        reason = f"the model's chat template refuses these messages: {error}"
        raise InvalidValue(reason, param="messages") from error
    return str(text)
