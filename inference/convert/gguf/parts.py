"""A model in one GGUF file, or cut into several, of which any may be named: `name-00001-of-00003.gguf`."""

from __future__ import annotations

import re
from pathlib import Path

from inference.checkpoints.safetensors_header import BadHeader
from inference.convert.gguf.header import GgufHeader, read_gguf

PART = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
MAX_PARTS = 1024


def check_gguf(path: Path) -> GgufHeader:
    """The header of a whole model, every part of it checked. Raises `BadHeader`."""
    header = read_gguf(path)
    if (header.number("split.count") or 1) > 1:
        header = _joined(path, header)
    if not header.architecture:
        raise BadHeader("no general.architecture")
    if not header.tensors:
        raise BadHeader("no tensors: a vocabulary alone is not a model")
    return header


def part_paths(header: GgufHeader) -> list[Path]:
    """The files that hold the model's tensors, in order."""
    return sorted({tensor.file for tensor in header.tensors.values()})


def _joined(path: Path, named: GgufHeader) -> GgufHeader:
    paths = _siblings(path, named.number("split.count") or 0)
    parts = [read_gguf(one) for one in paths]
    tensors = dict(parts[0].tensors)
    for number, (one, part) in enumerate(zip(paths, parts, strict=True)):
        if part.number("split.no") != number or part.number("split.count") != len(paths):
            raise BadHeader(f"{one.name} says of itself that it is another part than its name says")
        if number and tensors.keys() & part.tensors.keys():
            raise BadHeader(f"{one.name} holds a tensor that another part holds as well")
        tensors |= part.tensors
    expected = parts[0].number("split.tensors.count")
    if expected is not None and expected != len(tensors):
        raise BadHeader(f"the parts hold {len(tensors)} tensors together, and should hold {expected}")
    return GgufHeader(parts[0].keys, tensors)


def _siblings(path: Path, count: int) -> list[Path]:
    match = PART.fullmatch(path.name)
    if match is None or int(match["count"]) != count or not 1 < count <= MAX_PARTS:
        raise BadHeader(
            f"{path.name} is one of {count} parts, which are looked for by their names: call them "
            f"NAME-00001-of-{count:05}.gguf and so on"
        )
    paths = [path.with_name(f"{match['name']}-{part:05}-of-{count:05}.gguf") for part in range(1, count + 1)]
    if missing := [one.name for one in paths if not one.is_file()]:
        raise BadHeader(
            f"the model is cut into {count} parts, of which these are missing: {', '.join(missing)}"
        )
    return paths
