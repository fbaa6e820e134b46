"""Conversations as token ids, by the model's own chat template.

The template runs in transformers' immutable Jinja sandbox. What users write stays text: where a message
contains the string of a special token ("<|im_end|>"), those characters are encoded as characters, so that
nobody can end their own message and begin one in another role.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from inference.models.content_form import as_content, content_form
from inference.models.tokenizer import encode_all
from inference.protocol import ChatMessage, InvalidValue

# Private-use characters around a number stand for a special token's string while the template runs.
MARK = re.compile("\ue000([0-9]+)\ue001")


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: Sequence[ChatMessage]) -> list[int]:
    """Token ids of the conversation, ready for the assistant's turn."""
    if not tokenizer.chat_template:
        raise InvalidValue("this model has no chat template; use the completions endpoint", param="messages")
    special = special_strings(tokenizer)
    marked, escaped = _mark(messages, special)
    text = _render(tokenizer, _in_form(tokenizer, marked))
    pieces: list[str] = []
    for index, piece in enumerate(MARK.split(text) if escaped else [text]):
        is_mark = index % 2 and int(piece) < len(special)  # its characters, never the token
        pieces += special[int(piece)] if is_mark else [piece]
    return list(chain.from_iterable(encode_all(tokenizer, pieces)))


def special_strings(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Strings that the tokenizer turns into special tokens, the longest first."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(added | set(tokenizer.all_special_tokens), key=lambda string: (-len(string), string))


def _mark(messages: Iterable[ChatMessage], special: Sequence[str]) -> tuple[list[dict[str, str]], bool]:
    pattern = re.compile("|".join(re.escape(string) for string in special) or r"(?!)")
    escaped = False

    def mark(text: str) -> str:
        nonlocal escaped
        if MARK.search(text):
            raise InvalidValue(
                "characters U+E000 and U+E001 around a number are not accepted", param="messages"
            )
        marked, count = pattern.subn(lambda match: f"\ue000{special.index(match[0])}\ue001", text)
        escaped = escaped or count > 0
        return marked

    rows = []
    for message in messages:
        row = {"role": message.role, "content": mark(message.content)}
        if message.name is not None:
            row["name"] = mark(message.name)
        rows.append(row)
    return rows, escaped


def _in_form(tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """The messages with their contents as the template wants them, so that no word of a user is lost."""
    forms = {role: content_form(tokenizer, role) for role in {row["role"] for row in rows}}
    if forms.get("user") == "lost":
        raise InvalidValue(
            "the model's chat template leaves out what the user says; use the completions endpoint",
            param="messages",
        )
    return [{**row, "content": as_content(row["content"], forms[row["role"]])} for row in rows]


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]]) -> str:
    try:
        text: Any = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    except (TemplateError, TypeError, ValueError) as error:
        reason = f"the model's chat template refuses these messages: {error}"
        raise InvalidValue(reason, param="messages") from error
    return str(text)
