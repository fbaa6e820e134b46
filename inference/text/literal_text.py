"""Keeps users' text literal in a rendered chat template: unchanged, and never a special token.

While a template runs, marks stand for whatever could be read as a special token: the strings themselves, and
beginnings and ends of them that the template might complete. Afterwards the rendered text is encoded once,
marks and all: the special tokens found are the template's own. Between two of them, text that holds marks is
encoded again, with the user's words in their place and no special token looked for.
"""

from __future__ import annotations

import json
import re
import secrets
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase

from inference.text.tokenizer import encode, encode_all


class LiteralText:
    """Replaces text that could be a special token by marks. Their names are random: nobody can write one."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
        self._added = tokenizer.added_tokens_decoder  # made anew at each asking, of thousands at times
        self._special = special_strings(tokenizer, self._added)
        self._finds = re.compile("|".join(map(re.escape, self._special)) or r"(?!)")
        name = secrets.token_hex(4)
        self._mark = re.compile(f"\ue000{name}-([0-9]+)\ue001")
        self._written = f"\ue000{name}-%d\ue001"
        self._words: list[str] = []

    def mark(self, text: str) -> str:
        """`text` for the template, with marks where it could be read as a special token."""
        marked, end = [], 0
        for start, stop in _joined([*self._whole(text), *self._edges(text)]):
            marked += [text[end:start], self._written % len(self._words)]
            self._words.append(text[start:stop])
            end = stop
        return "".join([*marked, text[end:]])

    def encode(self, text: str) -> list[int]:
        """Token ids of the rendered template, with users' text in place of the marks."""
        if not self._words:
            return encode(self._tokenizer, text, add_special_tokens=False)
        if self._backend is None:
            return self._encode_by_characters(text)
        ids: list[int] = []
        for start, stop, section_ids in self._sections(self._backend, text):
            section = text[start:stop]
            if self._mark.search(section):
                ids += encode_as_text(self._backend, self._unmarked(section), is_beginning=start == 0)
            else:
                ids += section_ids
        return ids

    def _whole(self, text: str) -> Iterator[tuple[int, int]]:
        yield from (found.span() for found in self._finds.finditer(text))
        normalized = {one for one, token in self._added.items() if token.special and token.normalized}
        if normalized and self._backend is not None:  # which are found in other spellings, too
            found = self._backend.encode(text, add_special_tokens=False)
            yield from (span for one, span in zip(found.ids, found.offsets, strict=True) if one in normalized)

    def _edges(self, text: str) -> Iterator[tuple[int, int]]:
        """The longest end that begins a special token's string, the longest beginning that ends one, and the
        whole where it is the middle of one; templates may take away spaces around.
        """
        core = text.strip()
        if not core or not self._special:
            return
        first = len(text) - len(text.lstrip())
        last = first + len(core)
        if core in self._all:
            yield first, last
            return
        longest = min(len(core), len(self._special[0]))
        if size := next((n for n in range(longest, 0, -1) if _begins(self._forward, core[-n:])), 0):
            yield last - size, last
        if size := next((n for n in range(longest, 0, -1) if _begins(self._backward, core[n - 1 :: -1])), 0):
            yield first, first + size

    @cached_property
    def _all(self) -> str:
        return "\0".join(self._special)

    @cached_property
    def _forward(self) -> list[str]:
        return sorted(self._special)

    @cached_property
    def _backward(self) -> list[str]:
        return sorted(one[::-1] for one in self._special)

    def _sections(self, backend: Tokenizer, text: str) -> Iterator[tuple[int, int, list[int]]]:
        """(start, stop, ids) of the template's special tokens and of the text between them, in order."""
        special = {token_id for token_id, token in self._added.items() if token.special}
        found = backend.encode(text, add_special_tokens=False)
        between: list[int] = []
        end = 0
        for token_id, (start, stop) in zip(found.ids, found.offsets, strict=True):
            if token_id not in special:
                between.append(token_id)
                continue
            yield end, start, between
            yield start, start, [token_id]
            between, end = [], stop
        yield end, len(text), between

    def _unmarked(self, text: str) -> str:
        return self._mark.sub(lambda found: self._words[int(found[1])], text)

    def _encode_by_characters(self, text: str) -> list[int]:
        """For tokenizers of other libraries: no string of several characters is left that they would find."""
        pieces: list[str] = []
        for index, piece in enumerate(self._mark.split(text)):
            pieces += self._words[int(piece)] if index % 2 else [piece]
        return [token_id for ids in encode_all(self._tokenizer, pieces) for token_id in ids]


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order, overlapping ones merged."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(spans):
        if found and start < found[-1][1]:
            found[-1] = found[-1][0], max(stop, found[-1][1])
        elif stop > start:
            found.append((start, stop))
    return found


def _begins(strings: list[str], beginning: str) -> bool:
    """True if one of the sorted `strings` begins with `beginning`."""
    place = bisect_left(strings, beginning)
    return place < len(strings) and strings[place].startswith(beginning)


def special_strings(tokenizer: PreTrainedTokenizerBase, added: Mapping[int, AddedToken]) -> list[str]:
    """Strings that the tokenizer turns into special tokens, the longest first; `added`: its added tokens."""
    found = {token.content for token in added.values() if token.special} | set(tokenizer.all_special_tokens)
    return sorted(found - {""}, key=lambda string: (-len(string), string))


def encode_as_text(backend: Tokenizer, text: str, *, is_beginning: bool) -> list[int]:
    """Encodes a piece of a text as `backend` does, without matching special tokens."""
    added = backend.get_added_tokens_decoder()
    plain = {token.content: token_id for token_id, token in added.items() if not token.special}
    longest_first = sorted(plain, key=lambda content: (-len(content), content))
    finds = re.compile("(" + ("|".join(map(re.escape, longest_first)) or r"(?!)") + ")")
    steps = _steps(backend, is_beginning=is_beginning)
    ids: list[int] = []
    for index, piece in enumerate(finds.split(text)):
        if index % 2:
            ids.append(plain[piece])
        elif piece:
            ids += _encode_piece(backend, steps if index == 0 else _steps(backend, is_beginning=False), piece)
    return ids


def _steps(backend: Tokenizer, *, is_beginning: bool) -> Tokenizer:
    """The normalizer and pre-tokenizer of `backend`, without a vocabulary; some prepend a space."""
    described = {name: _state(getattr(backend, name)) for name in ("normalizer", "pre_tokenizer")}
    if not is_beginning:
        _leave_out_first_space(described["pre_tokenizer"])
    empty = {"type": "BPE", "vocab": {}, "merges": []}
    nothing = dict.fromkeys(("truncation", "padding", "post_processor", "decoder"))
    return Tokenizer.from_str(
        json.dumps({"version": "1.0", "added_tokens": [], "model": empty, **nothing, **described})
    )


def _state(part: Any) -> dict[str, Any] | None:
    return None if part is None else json.loads(part.__getstate__())


def _leave_out_first_space(described: object) -> None:
    if isinstance(described, dict):
        if described.get("type") == "Metaspace" and described.get("prepend_scheme") == "first":
            described["prepend_scheme"] = "never"
        for part in described.get("pretokenizers", ()):
            _leave_out_first_space(part)


def _encode_piece(backend: Tokenizer, steps: Tokenizer, text: str) -> list[int]:
    if steps.normalizer is not None:
        text = steps.normalizer.normalize_str(text)
    words: Sequence[str] = [text]
    if steps.pre_tokenizer is not None:
        words = [word for word, _ in steps.pre_tokenizer.pre_tokenize_str(text)]
    return [token.id for word in words for token in backend.model.tokenize(word)]
