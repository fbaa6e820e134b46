"""Model folders with random weights of a known shape, written as fast as the disk takes them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from inference.benchmark.shapes import SEED, fill, made_up_tokenizer, shape_config
from inference.checkpoints.serving_files import INDEX

SHARD_BYTES = 2 * 2**30
NUM_WRITERS = 4
NUM_DRAWN = 2**25  # random numbers; larger weights repeat them, which costs a matrix product the same


def write_folder(shape: str, folder: Path, *, dtype: torch.dtype = torch.bfloat16) -> bool:
    """Whether it had to be written. The index comes last: a folder that has it is whole."""
    config = shape_config(shape)
    config.dtype = dtype
    described = config.to_json_string()
    marker = folder / INDEX
    if marker.exists() and (folder / "config.json").read_text() == described:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    marker.unlink(missing_ok=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    shards = list(_shards(dict(model.named_parameters())))
    drawn = _draw(dtype)
    places: dict[str, str] = {}
    with ThreadPoolExecutor(NUM_WRITERS) as writers:
        written = []
        for number, shard in enumerate(shards, start=1):
            name = f"model-{number:05}-of-{len(shards):05}.safetensors"
            places |= dict.fromkeys(shard, name)
            written.append(writers.submit(_write, shard, drawn, folder / name))
        for one in written:
            one.result()
    made_up_tokenizer(config.vocab_size).save_pretrained(folder)
    (folder / "config.json").write_text(described)
    total = sum(parameter.nbytes for shard in shards for parameter in shard.values())
    marker.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": places}))
    return True


def weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _shards(parameters: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        if shard and sum(one.nbytes for one in shard.values()) + parameter.nbytes > SHARD_BYTES:
            yield shard
            shard = {}
        shard[name] = parameter
    yield shard


def _draw(dtype: torch.dtype) -> Tensor:
    torch.manual_seed(SEED)
    drawn = torch.empty(NUM_DRAWN, dtype=dtype, device="cpu")
    fill("", drawn)
    return drawn


def _write(shard: dict[str, Tensor], drawn: Tensor, path: Path) -> None:
    tensors = {name: _filled(name, parameter, drawn) for name, parameter in shard.items()}
    save_file(tensors, path, metadata={"format": "pt"})


def _filled(name: str, described: Tensor, drawn: Tensor) -> Tensor:
    tensor = torch.empty(described.shape, dtype=described.dtype, device="cpu")
    if "norm" in name:
        fill(name, tensor)
        return tensor
    flat = tensor.view(-1)
    for start in range(0, len(flat), len(drawn)):
        end = min(len(flat), start + len(drawn))
        flat[start:end] = drawn[: end - start]
    return tensor
