"""What people are told about an import beside that it worked: what was passed over, and what was assumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def remarks(facts: Mapping[str, Any]) -> Iterator[str]:
    """Sentences for a job's log and the command line, from a revision's facts."""
    if names := facts.get("ignored"):
        number = facts.get("num_ignored", len(names)) - len(names)
        rest = f" and {number} more" if number > 0 else ""
        yield f"ignored, and neither opened nor copied: {', '.join(names)}{rest}"
    if files := facts.get("own_code"):
        named = " and ".join(files)
        yield f"code of the model's own (auto_map in {named}) is not run: transformers has the classes"
    if source := facts.get("context_from"):
        whose = "the tokenizer's" if source == "tokenizer" else "assumed"
        tokens = facts["max_model_len"]
        yield f"config.json names no context length: {tokens} tokens, {whose}; max_model_len sets another"
    if facts.get("is_text_of_images"):
        yield "the model sees images as well; only its text is served"
    if sampling := facts.get("sampling"):
        said = ", ".join(f"{name} {value}" for name, value in sampling.items())
        yield f"where a request is silent, the model's own settings hold: {said}"
