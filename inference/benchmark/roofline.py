"""The least time that a step could take: what it must read at the copy rate, or multiply at the matrix rate.

Counted from the loaded model itself, so quantized weights and KV pools count as what they are.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn

from inference.benchmark.ceilings import Ceilings
from inference.scheduling.engine import Engine
from inference.scheduling.step_input import StepInput

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


class Roofline:
    """Adds up the least seconds of the steps that an engine runs. A step's larger bound counts.

    Read: each weight once (the output head only where a token is sampled, of the embedding nothing), and the
    keys and values of every sequence. Multiplied: every token by every linear layer, and with each key.
    """

    def __init__(self, engine: Engine, ceilings: Ceilings) -> None:
        self._ceilings = ceilings
        loaded = getattr(engine.runner, "loaded")  # noqa: B009 - the loop's own interface knows no model
        config = loaded.text_config
        self.is_known = not any(getattr(config, name, None) for name in EXPERTS)
        head = loaded.model.get_output_embeddings()
        kept = {id(head), id(loaded.model.get_input_embeddings())}
        self._head_bytes = _own_bytes(head)
        self._head_flops = 2 * head.in_features * head.out_features
        self._body_bytes = sum(_own_bytes(one) for one in loaded.model.modules() if id(one) not in kept)
        self._token_flops = sum(
            2 * one.in_features * one.out_features
            for one in loaded.model.modules()
            if hasattr(one, "in_features") and one is not head
        )
        cache: Any = getattr(engine.runner, "cache")  # noqa: B009
        self._token_bytes = cache.num_bytes / (cache.num_blocks * cache.block_size)
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._pair_flops = 4 * config.num_attention_heads * head_dim * config.num_hidden_layers
        self._windows = _windows(config)
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self.seconds = self.memory_seconds = 0.0
        self.num_bytes = self.num_flops = 0.0

    def add(self, step: StepInput) -> None:
        """A step is run."""
        num_keys = num_pairs = 0.0
        for num_tokens, end in zip(step.lengths, step.ends, strict=True):
            for window, share in self._windows:
                seen = min(end, num_tokens + window) if window else end
                num_keys += share * seen
                num_pairs += share * num_tokens * (seen - (num_tokens - 1) / 2)
        num_tokens, num_sampling = step.num_tokens, len(step.sampling.params)
        num_bytes = self._body_bytes + self._token_bytes * (num_keys + num_tokens)
        num_flops = self._token_flops * num_tokens + self._pair_flops * num_pairs
        if num_sampling:
            num_bytes += self._head_bytes
            num_flops += self._head_flops * num_sampling
        read = num_bytes / self._ceilings.copy_bytes_per_second
        self.seconds += max(read, num_flops / self._ceilings.flops_per_second)
        self.memory_seconds += read
        self.num_bytes += num_bytes
        self.num_flops += num_flops

    def report(self, seconds: float) -> dict[str, Any]:
        """The steps' least time at the device's peaks, as a percentage of `seconds`."""
        if not self.is_known:
            return {"roofline_percent": None}  # which experts a token reads is not counted
        return {
            "roofline_percent": round(100 * self.seconds / seconds, 1),
            "gigabytes": round(self.num_bytes / 1e9, 3),
            "teraflops": round(self.num_flops / 1e12, 3),
        }


def _own_bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters(recurse=False))


def _windows(config: Any) -> list[tuple[int | None, float]]:
    """Each attention window with its share of the layers."""
    window: int | None = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    if (
        getattr(config, "layer_types", None) is None
        and window
        and getattr(config, "use_sliding_window", True)
    ):
        kinds = ["sliding_attention"]
    counted = Counter(window if kind == "sliding_attention" else None for kind in kinds)
    return [(size, count / len(kinds)) for size, count in counted.items()]
