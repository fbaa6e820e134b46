"""The files of a folder that serving reads; all others are never opened."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"  # comes before an index, where both are there
RECEIPT = "converted.json"  # about a conversion: for people, no part of the model
TEMPLATES = "additional_chat_templates"
NAMES = frozenset(
    {
        "config.json", "generation_config.json", "chat_template.jinja", "chat_template.json",
        "processor_config.json",
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
        "vocab.json", "merges.txt", "vocab.txt", "vocab.bpe", "encoder.json",
    }
)  # fmt: skip
VOCABULARY = re.compile(r"[\w.-]+\.(model|tiktoken|spm)", re.ASCII)  # tokenizer.model and its like
FOR_PEOPLE = re.compile(r"README.*|LICEN[CS]E.*|NOTICE.*|USE_POLICY.*|\..*", re.IGNORECASE)
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def is_description(name: str) -> bool:
    """True for files other than weights that serving reads."""
    if name in NAMES or name == INDEX:
        return True
    folder, _, template = name.rpartition("/")
    if folder:
        return folder == TEMPLATES and template.endswith(".jinja")
    return VOCABULARY.fullmatch(name) is not None


def weights(names: Collection[str], index: Any) -> list[str]:
    """The weight files: a single one, or those that the index names."""
    if WHOLE in names:
        return [WHOLE]
    places = index.get("weight_map") if isinstance(index, Mapping) else None
    named = {place for place in places.values() if isinstance(place, str)} if isinstance(places, dict) else ()
    return sorted(name for name in named if name in names and name.endswith(".safetensors"))


def listed(root: Path) -> dict[str, Path]:
    """Files at the top of a folder and its additional chat templates, by name."""
    found = {entry.name: Path(entry.path) for entry in os.scandir(root)}
    if found.get(TEMPLATES, root / TEMPLATES).is_dir():
        found |= {f"{TEMPLATES}/{path.name}": path for path in (root / TEMPLATES).iterdir()}
    return dict(sorted(found.items()))


def ignored(names: Collection[str], served: Collection[str]) -> list[str]:
    """Files passed over and worth reporting: neither texts for people nor hidden files."""
    folders = {name.partition("/")[0] for name in served if "/" in name}
    return sorted(
        name
        for name in names
        if name not in served
        and name not in folders
        and name != RECEIPT
        and not FOR_PEOPLE.fullmatch(name.rpartition("/")[2])
    )
