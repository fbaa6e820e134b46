"""Model folders that hold a tokenizer alone, hostile ones among them, and desks that prepare with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.prompt_process.process import PromptSettings
from inference.prompt_process.queue import PromptDesk
from inference.protocol.requests import ChatMessage, Prepared, PrepareRequest
from tests.inference import tiny

PLAIN = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
Write = Callable[..., Path]
Open = Callable[..., PromptDesk]


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
def open_desk(tmp_path: Path) -> Iterator[Open]:
    """Opens desks, whose prompts have a second of processor time each; they are closed at the end."""
    desks: list[PromptDesk] = []

    def open_desk(folder: Path, *, is_tried: bool = True, seconds: float = 1) -> PromptDesk:
        settings = PromptSettings(seconds=seconds, index=tmp_path / "index.json")
        desk = PromptDesk(folder.name, folder, settings)
        desks.append(desk)
        if is_tried:
            assert desk.open() == ""
        return desk

    yield open_desk
    for desk in desks:
        desk.close()


async def ask(desk: PromptDesk, content: str) -> Prepared:
    request = PrepareRequest("", messages=(ChatMessage("user", content),))
    return await desk.prepare(request, vocab_size=300, max_model_len=4096)


async def complete(desk: PromptDesk, text: str) -> Prepared:
    return await desk.prepare(PrepareRequest("", text=text), vocab_size=300, max_model_len=4096)
