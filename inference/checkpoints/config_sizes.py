"""Numbers of a config.json that say how much is built before any weight is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MAX_LAYERS = 4096  # ten times what the deepest known model has
MAX_EXPERTS = 16_384
LAYERS = ("layers", "n_layer", "num_layer", "depth")  # how such names end


def excessive_size(config: Any) -> str:
    """The reason to refuse its sizes; "" where all are in bounds. transformers would allocate any of them."""
    for name, value in _numbers(config):
        bound = MAX_LAYERS if name.endswith(LAYERS) else MAX_EXPERTS if "experts" in name else None
        if bound is not None and value > bound:
            return f"{name} is {value:.3g}, more than {bound}"
    return ""


def _numbers(config: Any) -> Iterator[tuple[str, float]]:
    stack = [config]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            stack.extend(node.values())
            yield from ((name, value) for name, value in node.items() if isinstance(value, int | float))
        elif isinstance(node, list):
            stack.extend(node)
