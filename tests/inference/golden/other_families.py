"""Tiny configs of families that are served one request at a time: text of models that see images, heads that
differ by layer, and those whose files name no context length or name it by another word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

TEXT: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258,
}  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
QWEN_VISION = {"depth": 1, "num_heads": 2, "patch_size": 14}
QWEN_TOKENS = {
    "image_token_id": 299, "video_token_id": 298, "vision_start_token_id": 297, "vision_end_token_id": 296,
}  # fmt: skip
BY_LAYER = {
    "num_hidden_layers": 6, "head_dim": 16, "global_head_dim": 32,
    "vocab_size_per_layer_input": 300, "hidden_size_per_layer_input": 8,
}  # fmt: skip


def _sections(*sizes: int) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "mrope_section": list(sizes), "rope_theta": 10000.0}}


def _config(model_type: str, **values: Any) -> Callable[[], PretrainedConfig]:
    return lambda: CONFIG_MAPPING[model_type](**values)


OF_IMAGES: dict[str, Callable[[], PretrainedConfig]] = {
    "qwen2_vl": _config(
        "qwen2_vl",
        text_config=TEXT | _sections(1, 1, 2),
        vision_config=QWEN_VISION | {"embed_dim": 32, "hidden_size": 48, "mlp_ratio": 2, "in_channels": 3},
        **QWEN_TOKENS,
    ),
    "qwen2_5_vl": _config(
        "qwen2_5_vl",
        text_config=TEXT | _sections(1, 1, 2),
        vision_config=QWEN_VISION
        | {"hidden_size": 32, "intermediate_size": 32, "out_hidden_size": 48, "fullatt_block_indexes": [0]},
        **QWEN_TOKENS,
    ),
    "qwen3_vl": _config(
        "qwen3_vl",
        text_config=TEXT | _sections(4, 2, 2) | {"head_dim": 16},
        vision_config=QWEN_VISION
        | {
            "hidden_size": 32,
            "intermediate_size": 32,
            "out_hidden_size": 48,
            "deepstack_visual_indexes": [0],
            "num_position_embeddings": 16,
        },
        **QWEN_TOKENS,
    ),
    "smolvlm": _config(
        "smolvlm", text_config=TEXT | {"model_type": "llama"}, vision_config=VISION, image_token_id=299
    ),
    "idefics3": _config(
        "idefics3", text_config=TEXT | {"model_type": "llama"}, vision_config=VISION, image_token_id=299
    ),
    "llava": _config(
        "llava",
        text_config=TEXT | {"model_type": "llama"},
        vision_config=VISION | {"model_type": "clip_vision_model"},
        image_token_index=299,
    ),
    "mistral3": _config(
        "mistral3",
        text_config=TEXT | {"model_type": "mistral", "head_dim": 8},
        vision_config=VISION | {"model_type": "pixtral"},
        image_token_index=299,
    ),
    "gemma4": _config(
        "gemma4",
        text_config=TEXT | BY_LAYER,
        vision_config=VISION | {"num_key_value_heads": 2, "head_dim": 16},
        audio_config=None,
        image_token_id=299,
        boi_token_id=298,
        eoi_token_id=297,
    ),
}
OF_TEXT: dict[str, Callable[[], PretrainedConfig]] = {
    "gemma4_text": _config("gemma4_text", **TEXT | BY_LAYER),
    "bloom": _config("bloom", vocab_size=300, hidden_size=32, n_layer=2, n_head=4, seq_length=256),
    "mpt": _config("mpt", vocab_size=300, d_model=32, n_layers=2, n_heads=4, max_seq_len=384),
    "mamba": _config("mamba", vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=8),
}
