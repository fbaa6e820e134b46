"""Length-dependent rotary embeddings, fixed at the longest context served.

transformers chooses the frequencies of these kinds (longrope, dynamic) by the largest position of each
forward pass. In a batch one long sequence would change the rotation of its neighbours' tokens.
"""

from __future__ import annotations

from typing import Any

from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

BY_LENGTH = ("longrope", "dynamic")
FIXED = "default"  # a kind whose frequencies transformers leaves as they are


def fix_rope_frequencies(model: Any, max_model_len: int) -> None:
    """Gives each rotary embedding the frequencies of sequences of that many tokens, and keeps them fixed."""
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        if isinstance(kinds, dict):  # by the type of layer
            for layer_type in kinds:
                _fix_layer_type(module, kinds, layer_type, max_model_len)
        elif kinds in BY_LENGTH:
            module.inv_freq, module.attention_scaling = _frequencies(module, kinds, None, max_model_len)
            module.rope_type = FIXED


def _fix_layer_type(module: Any, kinds: dict[str, str], layer_type: str, max_model_len: int) -> None:
    if kinds[layer_type] in BY_LENGTH:
        frequencies, scaling = _frequencies(module, kinds[layer_type], layer_type, max_model_len)
        setattr(module, f"{layer_type}_inv_freq", frequencies)
        setattr(module, f"{layer_type}_attention_scaling", scaling)
        kinds[layer_type] = FIXED


def _frequencies(module: Any, kind: str, layer_type: str | None, max_model_len: int) -> tuple[Any, float]:
    of_layers = {} if layer_type is None else {"layer_type": layer_type}
    device = next(module.buffers()).device
    found: tuple[Any, float] = ROPE_INIT_FUNCTIONS[kind](
        module.config, device, seq_len=max_model_len, **of_layers
    )
    return found
