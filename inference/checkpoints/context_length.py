"""A model's context length, by whichever name its files give it, or an assumption that is reported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PretrainedConfig

NAMES = (
    "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_sequence_length",
    "max_seq_length", "seq_length", "seq_len", "max_target_positions", "model_max_length",
)  # fmt: skip
MOST = 2**27  # tokenizers write 10^30 where there is no limit
ASSUMED = 4096  # of models that know no limit, such as Mamba, or do not say it


@dataclass(frozen=True, slots=True)
class ContextLength:
    """A context length in tokens. `source` "config": an upper bound; otherwise settings may exceed it."""

    tokens: int
    source: Literal["config", "tokenizer", "assumed"]

    @property
    def remark(self) -> str:
        """A note for people where the length is not the model's own; else ""."""
        if self.source == "config":
            return ""
        why = "the tokenizer's" if self.source == "tokenizer" else "assumed"
        return (
            f"its config.json does not say how long the context is: {self.tokens} tokens, {why}; "
            "max_model_len sets another length"
        )


def context_length(config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> ContextLength:
    """The context length by config.json (or its language model's part) and tokenizer_config.json."""
    for name in NAMES:
        if tokens := _number(config.get(name)):
            return ContextLength(tokens, "config")
    rotary = config.get("rope_scaling") or config.get("rope_parameters")
    if isinstance(rotary, Mapping) and (original := _number(rotary.get("original_max_position_embeddings"))):
        factor = rotary.get("factor")
        grown = original * factor if isinstance(factor, int | float) and factor >= 1 else original
        return ContextLength(int(grown), "config")
    if tokens := _number(tokenizer_config.get("model_max_length")):
        return ContextLength(tokens, "tokenizer")
    return ContextLength(ASSUMED, "assumed")


def of_folder(config: PretrainedConfig, folder: Path) -> ContextLength:
    """The context length of a folder whose config transformers has read; its text config comes first."""
    text = {name: value for name, value in config.get_text_config().to_dict().items() if value is not None}
    path = folder / "tokenizer_config.json"
    return context_length(config.to_dict() | text, json.loads(path.read_bytes()) if path.is_file() else {})


def _number(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 1 <= value <= MOST else None
