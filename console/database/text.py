"""Text from outside -> text that every database keeps: no character may cost a request its ledger row."""

from __future__ import annotations


def stored_text(text: str, *, length: int) -> str:
    """At most `length` characters, without NUL (PostgreSQL has none) and lone surrogates (UTF-8 has none)."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")[:length]
