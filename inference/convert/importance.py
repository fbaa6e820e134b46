"""Mean squared inputs of a model's linear layers (an importance matrix), which weigh quantization errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

NUM_TEXTS, NUM_TOKENS = 4, 128
SEED = 0


@torch.no_grad()
def importance(model: Any) -> dict[str, Tensor]:
    """The mean squares of each linear layer's inputs, `[num_inputs]`, by its name.

    Over random tokens: which inputs are large is the model's doing more than the text's. With texts of people
    the perplexity of SmolLM2-135M in int4 is 2 % lower still; without either it is 20 % higher.
    """
    generator = torch.Generator("cpu").manual_seed(SEED)
    token_ids = torch.randint(
        model.config.vocab_size, (NUM_TEXTS, NUM_TOKENS), generator=generator, dtype=torch.int64, device="cpu"
    )
    found: dict[str, Tensor] = {}
    with _watched(model, found):
        model(token_ids.to(model.device), use_cache=False)
    return {name: total / total.mean().clamp_min(1e-30) for name, total in found.items()}


@contextmanager
def _watched(model: nn.Module, found: dict[str, Tensor]) -> Iterator[None]:
    """Sums the squares of the linear layers' inputs."""

    def watch(name: str, linear: nn.Linear) -> Any:
        def add(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            squares = inputs[0].reshape(-1, linear.in_features).float().square().sum(0)
            found[name] = found[name] + squares if name in found else squares

        return linear.register_forward_pre_hook(add)

    hooks = [watch(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
