"""Model folders that hold a tokenizer alone, hostile ones among them, and prompt queues that use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.prompt_process.process import PromptSettings
from inference.prompt_process.queue import PromptQueue
from inference.protocol.requests import ChatMessage, TokenizedPrompt, TokenizeRequest
from tests.inference import tiny

PLAIN = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
Write = Callable[..., Path]
Open = Callable[..., PromptQueue]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a tokenizer's folder: with a chat template, and its backend changed as `change` says."""

    def write(
        name: str, template: str | None = PLAIN, change: Callable[[Any], object] = lambda backend: None
    ) -> Path:
        tokenizer = tiny.tiny_tokenizer()
        change(tokenizer.backend_tokenizer)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def open_queue(tmp_path: Path) -> Iterator[Open]:
    """Opens queues, whose prompts have a second of processor time each; they are closed at the end."""
    queues: list[PromptQueue] = []

    def open_queue(folder: Path, *, is_tried: bool = True, seconds: float = 1) -> PromptQueue:
        settings = PromptSettings(seconds=seconds, index=tmp_path / "index.json")
        queue = PromptQueue(folder.name, folder, settings)
        queues.append(queue)
        if is_tried:
            assert queue.open() == ""
        return queue

    yield open_queue
    for queue in queues:
        queue.close()


async def ask(queue: PromptQueue, content: str) -> TokenizedPrompt:
    request = TokenizeRequest("", messages=(ChatMessage("user", content),))
    return await queue.tokenize(request, vocab_size=300, max_model_len=4096)


async def complete(queue: PromptQueue, text: str) -> TokenizedPrompt:
    return await queue.tokenize(TokenizeRequest("", text=text), vocab_size=300, max_model_len=4096)
