"""How a chat template wants a message's content: as a string, or as a list of parts.

Templates of models that also see images often loop over parts, and say nothing of a string: the words would
be lost. So each role is tried once in both forms, with a word that must come out again.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

Form = Literal["string", "parts", "lost"]

PROBE = "qzprobe"
FILLER = "x"


def content_form(tokenizer: PreTrainedTokenizerBase, role: str) -> Form:
    """ "lost": neither form lets the words of this role through."""
    special = tuple((name, str(value)) for name, value in tokenizer.special_tokens_map.items())
    return _form(tokenizer.get_chat_template(), special, role)


def as_content(text: str, form: Form) -> str | list[dict[str, str]]:
    return [{"type": "text", "text": text}] if form == "parts" else text


@lru_cache(maxsize=256)
def _form(template: str, special: tuple[tuple[str, str], ...], role: str) -> Form:
    user: Form = "string" if role == "user" else _form(template, special, "user")
    has_rendered = False
    forms: tuple[Form, ...] = ("string", "parts")
    for form in forms:
        talk = _talk(role, as_content(PROBE, form), as_content(FILLER, user))
        try:
            [text], _ = render_jinja_template([talk], **_options(template, special))
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError):
            continue  # not this form, or not this conversation: the real one will tell
        if PROBE in text:
            return form
        has_rendered = True
    return "lost" if has_rendered else "string"


def _talk(role: str, probe: Any, filler: Any) -> list[dict[str, Any]]:
    """The smallest conversation in which a message of this role has its place."""
    tried = {"role": role, "content": probe}
    asked = {"role": "user", "content": filler}
    return {"user": [tried], "assistant": [asked, tried, asked]}.get(role, [tried, asked])


def _options(template: str, special: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    return {"chat_template": template, "add_generation_prompt": True, **dict(special)}
