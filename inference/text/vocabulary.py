"""The bytes that each token stands for, which text alone cannot say: a token may be half a character."""

from __future__ import annotations

import json
import re
from typing import Any

from transformers import PreTrainedTokenizerBase

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
METASPACE = "\u2581"  # SentencePiece's visible space


class TokenBytes:
    """Token id -> bytes, for byte-level BPE and for SentencePiece with or without byte fallback."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        decoders = _decoders(tokenizer)
        kinds = {decoder["type"] for decoder in decoders}
        self._byte_level = byte_level_alphabet() if "ByteLevel" in kinds else None
        self._metaspace = "Metaspace" in kinds or any(
            decoder["type"] == "Replace" and decoder.get("content") == " " for decoder in decoders
        )
        self._byte_fallback = "ByteFallback" in kinds
        self.is_exact = bool(self._byte_level or self._metaspace)  # else `raw` is the token's text on its own
        # What decoders take from the beginning of a text, which is that of the prompt.
        self.strips_first_space = self._metaspace and "Strip" in kinds
        self.drops_first_spaces = any(
            decoder["type"] == "Metaspace" and decoder.get("prepend_scheme") != "never"
            for decoder in decoders
        )
        self._added = dict(tokenizer.added_tokens_decoder)
        self.special_ids = frozenset(token_id for token_id, token in self._added.items() if token.special)
        self._known: dict[int, bytes] = {}
        self._texts: dict[int, str | None] = {}

    def raw(self, token_id: int) -> bytes:
        """The token's bytes; none for an id without a token (vocabularies are padded)."""
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._compute(token_id)
        return known

    def _compute(self, token_id: int) -> bytes:
        token: str | None = self.tokenizer.convert_ids_to_tokens(token_id)
        if token is None:
            return b""
        if self._byte_level is not None:
            # As the ByteLevel decoder does it: a token with a character outside the alphabet is itself.
            known = [self._byte_level.get(character) for character in token]
            return token.encode() if None in known else bytes(byte for byte in known if byte is not None)
        if token_id in self._added:
            return token.encode()
        byte = BYTE_TOKEN.fullmatch(token) if self._byte_fallback else None
        if byte:
            return bytes.fromhex(byte[1])
        if self._metaspace:
            return token.replace(METASPACE, " ").encode()
        return str(self.tokenizer.decode([token_id])).encode()

    def is_byte(self, token_id: int) -> bool:
        """Whether the token stands for a byte that the vocabulary has no other token for."""
        token: str | None = self.tokenizer.convert_ids_to_tokens(token_id)
        return self._byte_fallback and token is not None and BYTE_TOKEN.fullmatch(token) is not None

    def whole_text(self, token_id: int) -> str | None:
        """The token as text; None where it begins or ends within a character."""
        try:
            return self._texts[token_id]
        except KeyError:
            try:
                text: str | None = self.raw(token_id).decode()
            except UnicodeDecodeError:
                text = None
            self._texts[token_id] = text
            return text

    def text(self, token_id: int) -> str:
        """The token alone as text; U+FFFD where it is not whole characters."""
        return self.raw(token_id).decode(errors="replace")


def byte_level_alphabet() -> dict[str, int]:
    """The printable characters that stand for bytes in byte-level BPE vocabularies, as GPT-2 set them."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(256 + index): byte for index, byte in enumerate(rest)})
    return alphabet


def _decoders(tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    decoder = getattr(backend, "decoder", None)
    if decoder is None:
        return []
    described = json.loads(decoder.__getstate__())
    outer = described.get("decoders", [described])
    return [part for decoder in outer for part in decoder.get("decoders", [decoder])]
