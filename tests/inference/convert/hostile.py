"""Model files made by hand, honest ones and ones that lie."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from transformers import LlamaConfig, LlamaForCausalLM

from inference.text.vocabulary import byte_level_alphabet
from tests.inference.tiny import tiny_model, tiny_tokenizer


def string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def gguf_bytes(
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    num_tensors: int | None = None,
    num_keys: int | None = None,
    keys: bytes = b"",
    num_extra_keys: int = 0,
    tensors: list[tuple[str, list[int], int, int]] | None = None,
    data_bytes: int = 256,
) -> bytes:
    """A GGUF file of 32 float32 weights; each part may be replaced by a lie."""
    infos = [("weight", [32], 0, 0)] if tensors is None else tensors
    head = magic + struct.pack("<I", version)
    head += struct.pack(
        "<QQ", len(infos) if num_tensors is None else num_tensors, num_keys or 1 + num_extra_keys
    )
    head += string("general.architecture") + struct.pack("<I", 8) + string("llama") + keys
    for name, shape, kind, offset in infos:
        head += string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        head += struct.pack("<IQ", kind, offset)
    return head + bytes(-len(head) % 32) + bytes(data_bytes)


def key(name: str, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + value


def safetensors_bytes(header: Any, *, length: int | None = None, data_bytes: int = 16) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data_bytes)


def model_folder(folder: Path) -> Path:
    """A tiny model with its tokenizer, as it should be."""
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def tiny_gguf(path: Path) -> LlamaForCausalLM:
    """Writes a tiny llama as GGUF, as llama.cpp's converter lays it out; returns the model it was made of."""
    tokens = [
        *sorted(byte_level_alphabet(), key=byte_level_alphabet().__getitem__),
        "ab",
        "cd",
        "<s>",
        "</s>",
    ]
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
        bos_token_id=258, eos_token_id=259, rms_norm_eps=1e-5, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 258 + [3, 3])
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(258)
    writer.add_eos_token_id(259)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, tensor in model.state_dict().items():
        weight = tensor.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            weight = interleaved(weight, num_heads=4 if "q_proj" in name else 2)
        writer.add_tensor(names.get_name(name, (".weight",)), np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def interleaved(weight: np.ndarray[Any, Any], *, num_heads: int) -> np.ndarray[Any, Any]:
    """GGUF keeps the two halves of a rotary head interleaved."""
    rows, columns = weight.shape
    halves = weight.reshape(num_heads, 2, rows // num_heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)
