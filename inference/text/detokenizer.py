"""Output tokens as text, as soon as it is certain: whole characters only, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from inference.protocol.requests import Sampling
from inference.text.vocabulary import TokenBytes

NUM_TOKENS_BEFORE = 8  # of the prompt, which may change how the first of the output is written
REPLACEMENT = "\ufffd"


class Decoder(Protocol):
    """Tokens to text, one at a time, holding back unfinished characters."""

    def push(self, token_id: int) -> str: ...
    def flush(self) -> str: ...


class ByteDecoder:
    """For vocabularies whose tokens are known bytes: their concatenation, decoded as UTF-8.

    A space at the beginning, which SentencePiece puts before a text, is taken away where nothing precedes:
    what follows a prompt begins in the middle of a text. A character that was cut off is never shown.
    """

    def __init__(self, vocabulary: TokenBytes, prompt: Sequence[int], *, skip_special_tokens: bool) -> None:
        self._vocabulary = vocabulary
        self._skipped = vocabulary.special_ids if skip_special_tokens else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._is_between_characters = True
        takes_spaces = vocabulary.strips_first_space or vocabulary.drops_first_spaces
        self._is_first = takes_spaces and all(token_id in self._skipped for token_id in prompt)

    def push(self, token_id: int) -> str:
        if token_id in self._skipped:
            return ""
        text = self._decode(token_id)
        if self._is_first:
            return self._first(text, token_id)
        return text

    def flush(self) -> str:
        return ""

    def _decode(self, token_id: int) -> str:
        text = self._vocabulary.whole_text(token_id) if self._is_between_characters else None
        if text is None:  # few tokens are less than whole characters, and the decoder is slow
            text = self._utf8.decode(self._vocabulary.raw(token_id))
            self._is_between_characters = not self._utf8.getstate()[0]
        return text

    def _first(self, text: str, token_id: int) -> str:
        """What remains of a text's beginning: one kind of decoder drops all spaces of the first token, the
        other takes one from the text.
        """
        if self._vocabulary.drops_first_spaces:
            self._is_first = False
            return text if self._vocabulary.is_byte(token_id) else text.replace(" ", "")
        self._is_first = not text
        return text.removeprefix(" ")


class WholeDecoder:
    """For all other vocabularies: decodes the whole output each time, so it is slow on long ones.

    It is decoded behind the end of the prompt, since what is put between two tokens depends on both.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], *, skip_special_tokens: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._token_ids = list(prompt[-NUM_TOKENS_BEFORE:])
        self._num_emitted = len(self._decode())

    def push(self, token_id: int) -> str:
        self._token_ids.append(token_id)
        text = self._decode()
        return "" if text.endswith(REPLACEMENT) else self._emit(text)

    def flush(self) -> str:
        """Whatever ends in a replacement was cut off, unless the last token is one itself."""
        last = self._tokenizer.convert_ids_to_tokens(self._token_ids[-1:])
        is_own = any(REPLACEMENT in token for token in last if token)
        text = self._decode()
        return self._emit(text if is_own else text.rstrip(REPLACEMENT))

    def _decode(self) -> str:
        return str(
            self._tokenizer.decode(
                self._token_ids,
                skip_special_tokens=self._skip_special_tokens,
                clean_up_tokenization_spaces=False,
            )
        )

    def _emit(self, text: str) -> str:
        new = text[self._num_emitted :]
        self._num_emitted = max(self._num_emitted, len(text))
        return new


class StreamDetokenizer:
    """One sequence's output as text: what it adds to the prompt's, ending at its first stop string.

    The stop string that is complete first wins, however the text is cut into tokens. None counts
    before `min_tokens` tokens.
    """

    def __init__(self, vocabulary: TokenBytes, sampling: Sampling, prompt: Sequence[int]) -> None:
        skip = sampling.skip_special_tokens
        self._decoder: Decoder = (
            ByteDecoder(vocabulary, prompt, skip_special_tokens=skip)
            if vocabulary.is_exact
            else WholeDecoder(vocabulary.tokenizer, prompt, skip_special_tokens=skip)
        )
        self._stops = sampling.stop
        self._includes_stop = sampling.include_stop_str_in_output
        self._num_tokens_before_stops = sampling.min_tokens
        self._held = ""
        self.matched_stop: str | None = None

    def push(self, token_ids: list[int]) -> str:
        """Text that is certain now; at a stop string, what precedes it, and `matched_stop` is set."""
        if not self._stops:
            if len(token_ids) == 1:
                return self._decoder.push(token_ids[0])
            return "".join([self._decoder.push(token_id) for token_id in token_ids])
        return "".join([self._push_one(token_id) for token_id in token_ids])

    def flush(self) -> str:
        """What was held back, when the sequence ends without a stop string."""
        if self.matched_stop is not None:
            return ""
        return self._search(self._decoder.flush(), is_end=True)

    def _push_one(self, token_id: int) -> str:
        if self.matched_stop is not None:
            return ""
        self._num_tokens_before_stops -= 1
        return self._search(self._decoder.push(token_id), is_end=False)

    def _search(self, new: str, *, is_end: bool) -> str:
        text, self._held = self._held + new, ""
        found = first_stop(text, self._stops) if self._num_tokens_before_stops <= 0 else None
        if found is not None:
            start, self.matched_stop = found
            return text[: start + len(self.matched_stop)] if self._includes_stop else text[:start]
        if is_end:
            return text
        num_held = possible_stop_length(text, self._stops)
        self._held = text[len(text) - num_held :]
        return text[: len(text) - num_held]


def first_stop(text: str, stops: Sequence[str]) -> tuple[int, str] | None:
    """Where the stop string starts that is complete first, and which it is; of several, the longest."""
    found = [(start + len(stop), start, stop) for stop in stops if (start := text.find(stop)) >= 0]
    if not found:
        return None
    _, start, stop = min(found)
    return start, stop


def possible_stop_length(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that may become a stop string."""
    longest = 0
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), longest, -1):
            if stop.startswith(text[-length:]):
                longest = length
                break
    return longest
