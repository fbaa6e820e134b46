"""What a tokenizer and a chat template are tried with before they are trusted with anybody's prompt."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from inference.protocol.errors import InvalidValue, Refusal
from inference.protocol.requests import ChatMessage
from inference.text.chat_template import render_chat
from inference.text.tokenizer import encode
from inference.text.vocabulary import TokenBytes

MAX_TOKEN_CHARS = 4096  # the longest known are runs of a few hundred spaces
MAX_ADDED_TOKENS = 65_536
RUN = 2000  # characters: enough for what is exponential in a run's length, nothing for what is linear

TEXTS = (
    "Hello, world! It's 3.14; grüß Gott, 你好, שלום, 😀\n\n\tdef f(x): return x  # _a_\r\n",
    *(f"{character * RUN}!" for character in ("a", "A", "1", " ", "\n", "-", "_", "é", "你", "\u2581")),
    f"{'a1 ' * RUN}\0",
)
USER = ChatMessage("user", "What is the capital of France?")
ASSISTANT = ChatMessage("assistant", "Paris.")
SYSTEM = ChatMessage("system", "Answer briefly.")
CONVERSATIONS = (
    (USER,),
    (SYSTEM, USER),
    (USER, ASSISTANT, USER),
    (SYSTEM, *(USER, ASSISTANT) * 16, USER),
)


class Unusable(Refusal):
    """What cannot be served of a tokenizer; the message says why."""


def try_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Encode, decode, and look at what the engine's own thread will have to decode. Raises `Unusable`."""
    _check_vocabulary(tokenizer)
    for text in TEXTS:
        tokenizer.decode(encode(tokenizer, text, add_special_tokens=True))


def try_chat_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Render conversations; why the template refuses all of them, "" where it takes one."""
    if not tokenizer.chat_template:
        return ""
    refused = ""
    for conversation in CONVERSATIONS:
        try:
            render_chat(tokenizer, conversation)
        except InvalidValue as refusal:  # of a system message, or turns that do not alternate: its right
            refused = refused or refusal.message
        else:
            return ""
    return refused


def _check_vocabulary(tokenizer: PreTrainedTokenizerBase) -> None:
    """Tokens become text in the thread of all engines: that must cost next to nothing."""
    longest = max(map(len, tokenizer.get_vocab()), default=0)
    if longest > MAX_TOKEN_CHARS:
        raise Unusable(f"a token of {longest} characters")
    num_added = len(tokenizer.added_tokens_decoder)
    if num_added > MAX_ADDED_TOKENS:
        raise Unusable(f"{num_added} added tokens")
    vocabulary = TokenBytes(tokenizer)
    if vocabulary.is_exact:
        return  # its bytes are looked up: no decoder runs
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is not None and b'"Regex"' in decoder.__getstate__():
        raise Unusable("its decoder replaces by a regular expression")
    for token_id in range(len(tokenizer)):
        num_bytes = len(vocabulary.raw(token_id))
        if num_bytes > MAX_TOKEN_CHARS:
            raise Unusable(f"the token {token_id} is decoded to {num_bytes} bytes")
