"""A folder's tokenizer and chat template, tried before it is registered, in a process that can be ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inference.prompt_process.process import PromptProcess, PromptSettings


def try_prompts(folder: Path) -> dict[str, Any]:
    """What shows of them, as facts. Raises `UnsafeModel`, which names the file at fault."""
    process = PromptProcess(folder, PromptSettings())
    try:
        process.load()
        note = process.try_all()
    finally:
        process.end()
    return {"template_note": note} if note else {}
