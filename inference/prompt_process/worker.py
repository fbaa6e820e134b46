"""A prompt process: loads one tokenizer, renders and tokenizes what is asked of it, one request at a time.

It never imports torch, limits itself before each step that runs foreign code, and ends with its parent.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference import transformers_index
from inference.prompt_process import process_limits
from inference.prompt_process.pipe import Pipe, PipeClosed
from inference.protocol.errors import InvalidValue, PromptTooCostly, RequestRejected
from inference.protocol.requests import ChatMessage, TokenizeRequest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOAD_BYTES = 4 * 2**30  # vocabularies of 262,144 tokens take a quarter of it while they are read
SPARE_BYTES = 512 * 2**20  # beside what is in use once the tokenizer is there
BYTES_PER_CHARACTER = 256  # of a prompt; 190 were measured
MANY_CHARACTERS = 100_000

Answer = tuple[dict[str, Any], tuple[int, ...]]


@dataclass
class Facts:
    """What `inference.text.prompt` asks of a model."""

    tokenizer: PreTrainedTokenizerBase
    vocab_size: int
    max_model_len: int


class Worker:
    """Answers one kind of message after the other."""

    def __init__(self) -> None:
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._bytes_at_rest = 0

    def answer(self, said: dict[str, Any], ids: tuple[int, ...]) -> Answer:
        kinds: dict[str, Callable[[], Answer]] = {
            "load": lambda: self._load(Path(said["folder"])),
            "try_tokenizer": self._try_tokenizer,
            "try_chat_template": self._try_chat_template,
            "tokenize": lambda: self._tokenize(said, ids),
        }
        num_characters = said.get("num_characters", 0)
        process_limits.limit_processor(said["seconds"])
        spare = SPARE_BYTES + BYTES_PER_CHARACTER * num_characters
        process_limits.limit_memory(self._bytes_at_rest + spare if self._bytes_at_rest else LOAD_BYTES)
        try:
            return kinds[said["do"]]()
        except BaseException as error:  # a panic of the tokenizers' library is no Exception
            return {"rejected": _rejection(error)}, ()
        finally:
            if num_characters > MANY_CHARACTERS:
                process_limits.give_back()

    def _load(self, folder: Path) -> Answer:
        from inference.text.tokenizer import load_tokenizer

        self._tokenizer = load_tokenizer(folder)
        gc.collect()
        gc.freeze()
        process_limits.give_back()
        self._bytes_at_rest = process_limits.memory_in_use()
        return {}, ()

    def _try_tokenizer(self) -> Answer:
        from inference.prompt_process.trial import try_tokenizer

        try_tokenizer(self._loaded())
        return {}, ()

    def _try_chat_template(self) -> Answer:
        from inference.prompt_process.trial import try_chat_template

        return {"note": try_chat_template(self._loaded())}, ()

    def _tokenize(self, said: dict[str, Any], ids: tuple[int, ...]) -> Answer:
        from inference.text.prompt import tokenize

        messages = said.get("messages")
        request = TokenizeRequest(
            revision="",
            messages=None if messages is None else tuple(ChatMessage(**message) for message in messages),
            text=said.get("text"),
            token_ids=ids if said.get("has_ids") else None,
        )
        tokenized = tokenize(Facts(self._loaded(), said["vocab_size"], said["max_model_len"]), request)
        text = tokenized.text if request.token_ids is not None else None  # else the asker has it
        return {"text": text, "max_output_tokens": tokenized.max_output_tokens}, tokenized.token_ids

    def _loaded(self) -> PreTrainedTokenizerBase:
        assert self._tokenizer is not None
        return self._tokenizer


def _rejection(error: BaseException) -> dict[str, Any]:
    if isinstance(error, RequestRejected):
        return {"kind": type(error).__name__, "message": error.message, "param": error.param}
    if isinstance(error, MemoryError):
        spare = SPARE_BYTES // 2**20
        return {"kind": PromptTooCostly.__name__, "message": f"needs more than {spare} MiB", "param": None}
    said = f"{type(error).__name__}: {error}"[:200]
    return {"kind": InvalidValue.__name__, "message": said, "param": None, "is_foreign": True}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m inference.prompt_process.worker", description=__doc__)
    parser.add_argument("--index", type=Path, help="where it is kept what transformers has")
    options = parser.parse_args(arguments)
    for sign in (signal.SIGINT, signal.SIGTERM):  # meant for the server, which lets its requests finish
        signal.signal(sign, signal.SIG_IGN)
    pipe = Pipe(reads=os.dup(0), writes=os.dup(1))
    _point(0, os.O_RDONLY)
    _point(1, os.O_WRONLY)  # what a library prints must not become a part of an answer
    sys.modules["torch"] = None  # type: ignore[assignment] # nothing here needs it, and it is large
    if options.index is not None:
        transformers_index.install(options.index)

    _point(2, os.O_WRONLY)  # from here on prompts are about
    process_limits.limit_files()
    pipe.send({})
    worker = Worker()
    while True:
        try:
            said, ids = pipe.receive()
            pipe.send(*worker.answer(said, ids))
        except PipeClosed:
            return 0


def _point(descriptor: int, mode: int) -> None:
    nothing = os.open(os.devnull, mode)
    os.dup2(nothing, descriptor)
    os.close(nothing)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
