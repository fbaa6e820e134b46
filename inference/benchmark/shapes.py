"""Models of a well-known shape with random weights, made on the device: speed needs no trained weights."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, PreTrainedTokenizerFast
from transformers.initialization import no_init_weights

from inference.attention import base
from inference.benchmark.repeating import make_repeating
from inference.config import EngineConfig
from inference.models.device import check_fp8, choose_attention, choose_device, choose_dtype
from inference.models.loader import LoadedModel
from inference.quantization.registry import quantize_loaded
from inference.text.vocabulary import TokenBytes, byte_level_alphabet

SHAPES: dict[str, dict[str, Any]] = {
    "llama-8b": {  # Llama-3.1-8B
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
    },
    "smollm2-135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
    },
    "tiny": {  # to see whether a command works
        "vocab_size": 1024,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 32768,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    },
}
SEED = 0
SPREAD = 0.02  # of the random weights, uniform to both sides


def random_model(
    shape: str, config: EngineConfig, *, max_model_len: int, embedding_std: float | None = None
) -> LoadedModel:
    """A loaded model of one of SHAPES; with a synthetic tokenizer. `embedding_std`: see repeating.py."""
    device = choose_device(config)
    dtype = choose_dtype(config, device)
    check_fp8(config, device, quantization=None)
    base.register()
    model_config = shape_config(shape)
    model = random_weights(model_config, device=device, dtype=dtype, attention=base.NAME)
    if embedding_std is not None:
        make_repeating(model, embedding_std=embedding_std)
    if config.quantization:
        quantize_loaded(model, config.quantization, quantize_head=config.quantize_head)
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the float weights' memory: the KV pool is planned from what is free
    tokenizer = synthetic_tokenizer(model_config.vocab_size)
    return LoadedModel(
        model=model.requires_grad_(False).eval(),
        tokenizer=tokenizer,
        vocabulary=TokenBytes(tokenizer),
        config=model.config,
        device=device,
        dtype=dtype,
        attention=choose_attention(config, device),
        batching=True,
        note="",
        max_model_len=max_model_len,
    )


def shape_config(shape: str) -> PretrainedConfig:
    """The transformers config of a shape. No token ends a text."""
    return LlamaConfig(
        **SHAPES[shape], architectures=["LlamaForCausalLM"], bos_token_id=None, eos_token_id=None
    )


def random_weights(
    config: PretrainedConfig, *, device: torch.device, dtype: torch.dtype, attention: str
) -> Any:
    """A model with weights that are made where they are; the same ones on the same kind of device."""
    torch.manual_seed(SEED)
    with torch.device(device), no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fill(name, parameter)
    return model


def fill(name: str, parameter: torch.Tensor) -> None:
    """Norms keep what passes; all else is random."""
    if "norm" in name:
        parameter.fill_(1.0)
    else:
        parameter.uniform_(-SPREAD, SPREAD)


def synthetic_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: the bytes, then filler tokens."""
    words = byte_level_alphabet()
    for number in range(len(words), vocab_size):
        words[f"w{number}"] = number
    backend = Tokenizer(models.BPE(vocab=words, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)
