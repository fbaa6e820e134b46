"""The format in which a chat template wants a message's content: a string, or a list of parts.

Templates of image-text models often loop over parts and render nothing of a string. So each role is probed
once in both formats, with a word that must appear in the result.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

ContentFormat = Literal["string", "parts", "lost"]

PROBE = "qzprobe"
FILLER = "x"


def content_format(tokenizer: PreTrainedTokenizerBase, role: str) -> ContentFormat:
    """The format for this role; "lost" if neither renders its contents."""
    special = tuple((name, str(value)) for name, value in tokenizer.special_tokens_map.items())
    return _format(tokenizer.get_chat_template(), special, role)


def as_content(text: str, format_: ContentFormat) -> str | list[dict[str, str]]:
    return [{"type": "text", "text": text}] if format_ == "parts" else text


@lru_cache(maxsize=256)
def _format(template: str, special: tuple[tuple[str, str], ...], role: str) -> ContentFormat:
    user: ContentFormat = "string" if role == "user" else _format(template, special, "user")
    has_rendered = False
    formats: tuple[ContentFormat, ...] = ("string", "parts")
    for format_ in formats:
        conversation = _conversation(role, as_content(PROBE, format_), as_content(FILLER, user))
        try:
            [text], _ = render_jinja_template([conversation], **_options(template, special))
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError):
            continue  # not this form, or not this conversation: the real one will tell
        if PROBE in text:
            return format_
        has_rendered = True
    return "lost" if has_rendered else "string"


def _conversation(role: str, probe: Any, filler: Any) -> list[dict[str, Any]]:
    """The smallest conversation in which a message of this role has its place."""
    tried = {"role": role, "content": probe}
    asked = {"role": "user", "content": filler}
    return {"user": [tried], "assistant": [asked, tried, asked]}.get(role, [tried, asked])


def _options(template: str, special: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    return {"chat_template": template, "add_generation_prompt": True, **dict(special)}
