"""The tokens of a GGUF file: their types, scores and merges, and which of them end a text."""

from __future__ import annotations

from typing import Any

from inference.convert.gguf.header import CannotConvert, GgufHeader

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # types of tokens
# Control tokens that end a turn or a text in the files that do not say so by a key.
ENDS = {
    "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<end_of_turn>", "<turn|>", "<|end|>", "<|return|>", "<|call|>",
    "<|endoftext|>", "<|end_of_text|>", "<end_of_utterance>", "<EOT>", "[EOT]",
}  # fmt: skip


class Vocabulary:
    """The tokens of a GGUF header. Raises `CannotConvert` where it contradicts itself."""

    def __init__(self, header: GgufHeader) -> None:
        self.header = header
        self.tokens = self._list("tokens", str)
        if not self.tokens:
            raise CannotConvert("the file has no vocabulary (tokenizer.ggml.tokens)")
        self.ids = {token: token_id for token_id, token in enumerate(self.tokens)}
        if len(self.ids) != len(self.tokens):
            twice = next(token for index, token in enumerate(self.tokens) if self.ids[token] != index)
            raise CannotConvert(f"the vocabulary has the token {twice!r} twice")
        self.types = self._list("token_type", int)

    def _list(self, name: str, kind: type) -> list[Any]:
        found = self.header.keys.get(f"tokenizer.ggml.{name}", [])
        is_fit = isinstance(found, list) and all(type(one) is kind for one in found)
        if not is_fit or (found and name in ("token_type", "scores") and len(found) != len(self.tokens)):
            raise CannotConvert(f"tokenizer.ggml.{name} does not fit the vocabulary")
        return list(found)

    def scores(self) -> list[float]:
        scores = self._list("scores", float)
        if not scores:
            raise CannotConvert("the file has neither merges nor scores for its vocabulary")
        return scores

    def merges(self) -> list[tuple[str, str]]:
        """As the file lists them: two tokens and a space between; the first may begin with one."""
        cuts = [(merge, merge.find(" ", 1)) for merge in self._list("merges", str)]
        return [(merge[:cut], merge[cut + 1 :]) for merge, cut in cuts if cut > 0]

    def token_id(self, name: str) -> int | None:
        """The token that a key names; None where there is no key."""
        token_id = self.header.number(f"tokenizer.ggml.{name}_token_id")
        if token_id is None or 0 <= token_id < len(self.tokens):
            return token_id
        if name in ("padding", "unknown"):  # never asked for here
            return None
        raise CannotConvert(
            f"tokenizer.ggml.{name}_token_id is {token_id}, the vocabulary has {len(self.tokens)} tokens"
        )

    def of_type(self, *types: int) -> list[int]:
        return [token_id for token_id, kind in enumerate(self.types) if kind in types]

    def flag(self, name: str, *, otherwise: bool) -> bool:
        value = self.header.keys.get(f"tokenizer.ggml.{name}")
        return value if isinstance(value, bool) else otherwise


def end_token_ids(header: GgufHeader) -> list[int]:
    """End-of-sequence tokens: those that keys name, and control tokens of known names."""
    vocabulary = Vocabulary(header)
    named = [vocabulary.token_id(name) for name in ("eos", "eot", "eom")]
    control = set(vocabulary.of_type(CONTROL))
    known = [vocabulary.ids[token] for token in ENDS & vocabulary.ids.keys()]
    ends = {token_id for token_id in named if token_id is not None}
    ends.update(token_id for token_id in known if token_id in control)
    if {"<|return|>", "<|call|>"} <= vocabulary.ids.keys():  # there <|end|> ends a message, not the answer
        ends.discard(vocabulary.ids.get("<|end|>", -1))
    return sorted(ends)
