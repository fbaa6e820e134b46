"""Guesses what a sequence says next: what followed when its last few tokens stood there before. No torch.

Every token that becomes known is compared with what would have been guessed for it, whether or not the guess
was computed. So a drafter knows what its guesses are worth before they cost anything, and after.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

LONGEST = 3  # tokens that must have stood there before; shorter runs are tried where longer ones are new
WINDOW = 16  # guesses that a length's record remembers, the latest counting most
FIRST_RECORDS = (0.15, 0.3, 0.5)  # of guesses after 1, 2, 3 known tokens, before any was seen
MAX_READ = 2048  # tokens read in one call: a long prompt does not hold up a step
MAX_TOKENS = 32_768  # of a longer sequence only the end is looked at: some 10 MB of memory at most
TOKEN_BITS = 21  # of a token id in a key; two ids that share them give a bad guess, not a wrong token


class Drafter:
    """One sequence's runs of tokens and what followed each; reading a token takes the same time anywhere."""

    __slots__ = ("_follows", "_guess_at", "_guess_length", "_keys", "_num_read", "_tokens", "records")

    def __init__(self) -> None:
        self.records = list(FIRST_RECORDS)  # by length: the part of the latest guesses that came true
        self._follows: tuple[dict[int, int], ...] = tuple({} for _ in range(LONGEST))  # run -> index after it
        self._tokens: list[int] = []
        self._num_read = 0  # of the sequence's tokens
        self._keys: list[int] = []  # of the runs of 1, 2, 3 tokens that end here
        self._guess_at = -1  # index of the token that is guessed to follow; -1: no run stood here before
        self._guess_length = 0

    def read(self, token_ids: Seq[int], end: int) -> bool:
        """Take note of the tokens up to `end`. False: some are left for the next call."""
        start = max(self._num_read, end - MAX_TOKENS)
        stop = min(end, start + MAX_READ)
        for index in range(start, stop):
            self._add(token_ids[index])
        self._num_read = max(self._num_read, stop)
        return stop >= end

    def chance(self) -> float:
        """How likely the next token is the one that would be guessed; 0: there is no guess."""
        return self.records[self._guess_length - 1] if self._guess_at >= 0 else 0.0

    def drafts(self, max_tokens: int, *, least_chance: float) -> list[int]:
        """The tokens guessed to come next, as far as the chance that all of them hold is large enough."""
        chance = each = self.chance()
        drafts: list[int] = []
        while len(drafts) < max_tokens and chance >= least_chance and chance > 0:
            index = self._guess_at + len(drafts)  # past the end, what repeats itself goes on
            known = len(self._tokens)
            drafts.append(self._tokens[index] if index < known else drafts[index - known])
            chance *= each
        return drafts

    def _add(self, token_id: int) -> None:
        if self._guess_at >= 0:
            length = self._guess_length - 1
            was_right = self._tokens[self._guess_at] == token_id
            self.records[length] += (was_right - self.records[length]) / WINDOW
        here = len(self._tokens)
        for follows, key in zip(self._follows, self._keys, strict=False):
            follows[key] = here
        self._tokens.append(token_id)
        self._keys = [token_id, *(key << TOKEN_BITS | token_id for key in self._keys[: LONGEST - 1])]
        self._guess_at = -1
        for length in range(len(self._keys), 0, -1):
            index = self._follows[length - 1].get(self._keys[length - 1], -1)
            if index >= 0:
                self._guess_at, self._guess_length = index, length
                return
