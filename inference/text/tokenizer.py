"""A folder's tokenizer: loading it for use by several threads, and encoding without touching its state."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, never from the network, never with code from the folder."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if not tokenizer.chat_template:
        tokenizer.chat_template = processors_template(folder)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.no_truncation()
        backend.no_padding()
    return tokenizer


def processors_template(folder: Path) -> str | None:
    """The chat template of older image-text models, which keep it in their processor's files."""
    for name in ("chat_template.json", "processor_config.json"):
        path = folder / name
        content = json.loads(path.read_bytes()) if path.is_file() else {}
        if isinstance(content, dict) and isinstance(found := content.get("chat_template"), str):
            return found
    return None


def encode(tokenizer: PreTrainedTokenizerBase, text: str, *, add_special_tokens: bool) -> list[int]:
    """Token ids of `text`. Strings of special tokens become those tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=add_special_tokens)
    else:
        # Past transformers' wrapper, which sets truncation on the shared tokenizer at every call:
        # two threads doing so at once fail with "Already borrowed".
        ids = backend.encode(text, add_special_tokens=add_special_tokens).ids
    return ids


def encode_all(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, in one batch, equal ones once: a prompt may have 100,000 pieces."""
    distinct = [text for text in dict.fromkeys(texts) if text]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        found = [encode(tokenizer, text, add_special_tokens=False) for text in distinct]
    else:
        found = [one.ids for one in backend.encode_batch(distinct, add_special_tokens=False)]
    ids = dict(zip(distinct, found, strict=True))
    return [ids.get(text, []) for text in texts]
