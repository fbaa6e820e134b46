"""The weights of a GGUF file into safetensors, one tensor after the other, so that memory holds one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import IO, Any

import torch
from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

from inference.convert.gguf.config import family_of
from inference.convert.gguf.header import CannotConvert, GgufHeader
from inference.convert.gguf.tensors import pieces, read_tensor

DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
UNCHANGED = ("token_embd.weight", "output.weight")  # the largest, and changed by no converter but GPT-2's
SKIPPED = ("rope_freqs.", "rope_factors_", ".attn_rot_embd.", ".nextn.")  # said by the config, or unused

Progress = Callable[[float], None]  # the part that is done


class SafetensorsFile:
    """A file whose header is written first, and whose tensors come in any order."""

    def __init__(self, file: IO[bytes], shapes: Mapping[str, tuple[torch.Size, torch.dtype]]) -> None:
        self._file = file
        self._start: dict[str, int] = {}
        described: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, (shape, dtype) in shapes.items():
            start, end = end, end + prod(shape) * dtype.itemsize
            described[name] = {"dtype": DTYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
            self._start[name] = start
        header = json.dumps(described, separators=(",", ":")).encode()
        header += b" " * (-len(header) % 8)
        file.write(len(header).to_bytes(8, "little") + header)
        self._data = file.tell()
        file.truncate(self._data + end)

    def write(self, name: str, tensor: Tensor, *, skip_bytes: int = 0) -> int:
        """Puts a tensor, or rows of one behind `skip_bytes` of it, in its place; how many bytes it took."""
        raw: Any = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        self._file.seek(self._data + self._start[name] + skip_bytes)
        self._file.write(memoryview(raw))
        return int(raw.nbytes)


def write_weights(
    header: GgufHeader, config: PretrainedConfig, path: Path, *, dtype: torch.dtype, progress: Progress
) -> type[Any]:
    """The class of the model whose weights are now in `path`. Raises `CannotConvert`."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    shapes = _shapes(model, dtype)
    converter = _Converter(header, config, model)
    with path.open("wb") as file:
        target = SafetensorsFile(file, shapes)
        written: set[str] = set()
        for number, name in enumerate(header.tensors):
            for made, parts in converter.convert(name):
                if made in shapes:
                    _write(target, made, parts, shapes[made])
                    written.add(made)
            progress((number + 1) / len(header.tensors))
    if missing := sorted(shapes.keys() - written):
        raise CannotConvert(f"the file lacks {missing[0]}")
    return type(model)


def _shapes(model: Any, dtype: torch.dtype) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Names and shapes of the model's tensors; a tied head is left out."""
    tied = set(model.all_tied_weights_keys)
    exact = tuple(model._keep_in_fp32_modules_strict or ())
    return {
        name: (tensor.shape, torch.float32 if any(part in name for part in exact) else dtype)
        for name, tensor in model.state_dict().items()
        if name not in tied
    }


def _write(
    target: SafetensorsFile, name: str, parts: Iterator[Tensor], described: tuple[torch.Size, torch.dtype]
) -> None:
    shape, dtype = described
    done, expected = 0, prod(shape) * dtype.itemsize
    for part in parts:
        if part.shape[1:] != shape[1:]:
            raise CannotConvert(f"{name} has rows of {list(part.shape[1:])}, not of {list(shape[1:])}")
        if done + part.numel() * dtype.itemsize > expected:
            break
        done += target.write(name, part.to(dtype), skip_bytes=done)
    if done != expected:
        raise CannotConvert(f"{name} has another size in the file than the model's {list(shape)}")


class _Converter:
    """Undoes the names and layouts of llama.cpp's converter."""

    def __init__(self, header: GgufHeader, config: PretrainedConfig, model: Any) -> None:
        self.header = header
        kind = TENSOR_PROCESSORS.get(family_of(header).layout or header.architecture, TensorProcessor)
        self.processor = kind(config=_figures(config))
        self.names = _names(header.architecture, config.num_hidden_layers, model, self.processor)
        self._missing = Counter(self.names[name] for name in map(self._named, header.tensors) if name)
        self._joined: dict[str, Tensor] = {}  # made of several tensors, of which some are still to come

    def convert(self, name: str) -> Iterator[tuple[str, Iterator[Tensor]]]:
        """The tensors that one tensor of the file becomes: names, and their rows one after the other."""
        named = self._named(name)
        if named is None:
            if name != "output.weight" and not any(part in name for part in SKIPPED):
                raise CannotConvert(f"the file holds {name}, for which the model has no place")
            return
        tensor = self.header.tensors[name]
        if name in UNCHANGED:
            yield self.names[named], (torch.from_numpy(piece) for piece in pieces(tensor))
            return
        result = self.processor.process(
            weights=read_tensor(tensor),
            name=name,
            tensor_key_mapping=self.names,
            parsed_parameters={"tensors": self._joined},
        )
        if result.name is not None:
            yield self.names[named], iter([torch.from_numpy(result.weights.copy())])
            return
        self._missing[self.names[named]] -= 1
        for made in [made for made in self._joined if not self._missing[made]]:
            yield made, iter([self._joined.pop(made)])

    def _named(self, name: str) -> str | None:
        """As the map knows it: experts of a layer are one tensor there, without a suffix."""
        if name in self.names:
            return name
        stem = name.removesuffix(".weight")
        return stem if stem in self.names else None


def _names(architecture: str, num_layers: int, model: Any, processor: TensorProcessor) -> dict[str, str]:
    """llama.cpp's name of each tensor -> transformers'."""
    kind = next(kind for kind, name in MODEL_ARCH_NAMES.items() if name == architecture)
    known = get_tensor_name_map(kind, num_layers)
    names: dict[str, str] = {}
    for full in model.state_dict():
        name = processor.preprocess_name(full)
        stem, suffix = name, ""
        if name.endswith((".weight", ".bias")):
            stem, _, suffix = name.rpartition(".")
            suffix = f".{suffix}"
        parts = stem.split(".")  # some are known by what follows the name of the model's inner part
        found = (known.get_name(".".join(parts[first:])) for first in range(len(parts)))
        if (theirs := next((one for one in found if one), None)) is None:
            processor.perform_fallback_tensor_mapping(names, suffix, "", name)
        else:
            names.setdefault(theirs + suffix, name)
    return names


def _figures(config: PretrainedConfig) -> dict[str, Any]:
    """The config's figures under the names that transformers' tensor processors look up."""
    common = ("num_attention_heads", "num_key_value_heads", "hidden_size")
    return {**config.to_dict(), **{name: getattr(config, name) for name in common if hasattr(config, name)}}
