"""Log-probabilities of tokens in the shapes of OpenAI's two endpoints: a list of objects for chat, four
parallel lists for completions.

In both the chosen token is among the most likely ones, so there may be one more than asked for. A token that
is not whole characters is written by its bytes, so that no two of them look alike.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Sequence
from typing import Any

from inference.protocol.events import TokenLogprob

LOWEST_LOGPROB = -9999.0  # JSON has no infinity; OpenAI's stand-in


def chat_logprobs(tokens: Sequence[TokenLogprob], *, num_top: int) -> list[dict[str, Any]]:
    """`logprobs.content` of a chat choice."""
    return [
        {**_chat_token(one), "top_logprobs": [_chat_token(top) for top in _top(one)] if num_top else []}
        for one in tokens
    ]


def _chat_token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": written(token), "logprob": finite(token), "bytes": list(token.raw)}


class CompletionLogprobs:
    """`logprobs` of one completion choice; it counts the characters that went before."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._num_characters = 0  # complete ones

    def lists(self, tokens: Sequence[TokenLogprob], *, text: str | None = None) -> dict[str, list[Any]]:
        """The lists of the tokens that come next. `text_offset` of a token is the position of the character
        that it begins or goes on with; in a whole `text`, its end for tokens that a stop string cut off.
        """
        offsets = []
        for token in tokens:
            offset = self._num_characters
            offsets.append(offset if text is None else min(offset, len(text)))
            if token.is_shown:
                self._num_characters += len(self._utf8.decode(token.raw))
        return {
            "tokens": [_completion_token(one) for one in tokens],
            "token_logprobs": [finite(one) for one in tokens],
            "top_logprobs": [_by_token(_top(one)) for one in tokens],
            "text_offset": offsets,
        }


def _completion_token(token: TokenLogprob) -> str:
    return token.text if is_whole(token) else f"bytes:{written(token)}"


def _by_token(tokens: Sequence[TokenLogprob]) -> dict[str, float]:
    """Different tokens of the same text are told apart by their ids."""
    by_token: dict[str, float] = {}
    for one in tokens:
        name = _completion_token(one)
        by_token[f"token_id:{one.token_id}" if name in by_token else name] = finite(one)
    return by_token


def _top(token: TokenLogprob) -> Sequence[TokenLogprob]:
    """The most likely tokens, and the chosen one last where it is none of them."""
    is_among = any(top.token_id == token.token_id for top in token.top)
    return token.top if is_among else (*token.top, token)


def is_whole(token: TokenLogprob) -> bool:
    """Whether the token is whole characters; others hold a part of one."""
    try:
        token.raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def written(token: TokenLogprob) -> str:
    r"""The token's text; parts of characters as escaped bytes, `\xf0\x9f`."""
    return token.text if is_whole(token) else "".join(f"\\x{byte:02x}" for byte in token.raw)


def finite(token: TokenLogprob) -> float:
    return token.logprob if math.isfinite(token.logprob) else LOWEST_LOGPROB
