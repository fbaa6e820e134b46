"""The header of a safetensors file, checked against the file before a library may map it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

MAX_HEADER_BYTES = 32 * 2**20  # of 100,000 tensors they take some 15 MB
MAX_TENSORS = 262_144
MAX_DIMENSIONS = 16
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2,
    "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip


class BadHeader(ValueError):
    """A header that does not fit its file or format."""


class DuplicateName(ValueError):
    """Two entries of one name: readers differ in which they take."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor's entry in a header."""

    name: str
    dtype: str
    num_elements: int
    num_bytes: int


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors by name. Raises `BadHeader` where the header does not fit the file or the format."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
            raise BadHeader(f"{path.name}: not a safetensors file, or its header claims {length} bytes")
        try:
            header = json.loads(file.read(length), object_pairs_hook=_reject_duplicates)
        except DuplicateName as error:
            raise BadHeader(f"{path.name}: {error}") from error
        except (ValueError, RecursionError) as error:
            raise BadHeader(f"{path.name}: the header is not JSON") from error
    if not isinstance(header, dict):
        raise BadHeader(f"{path.name}: the header is not an object")
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise BadHeader(f"{path.name}: {len(header)} tensors are more than {MAX_TENSORS}")
    extents = sorted(_extent(path.name, name, entry) for name, entry in header.items())
    end = 0
    for start, stop in extents:
        if start != end:
            raise BadHeader(f"{path.name}: tensors overlap or leave gaps")
        end = stop
    if end != size - 8 - length:
        raise BadHeader(f"{path.name}: the tensors take {end} bytes, the file has {size - 8 - length}")
    return {
        name: Tensor(
            name=name,
            dtype=entry["dtype"],
            num_elements=prod(entry["shape"]),
            num_bytes=entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
    }


def _reject_duplicates(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in entries:
        if name in found:
            raise DuplicateName(f"{name[:80]!r} is there twice")
        found[name] = value
    return found


def _extent(file_name: str, name: str, entry: Any) -> tuple[int, int]:
    try:
        shape, (start, stop) = entry["shape"], entry["data_offsets"]
        if len(shape) > MAX_DIMENSIONS:
            raise ValueError(f"{len(shape)} dimensions")
        numbers = [*shape, start, stop]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("a size that is not a whole number")
        if stop - start != prod(shape) * DTYPE_BYTES[entry["dtype"]]:
            raise ValueError("a size that does not fit its shape")
    except (KeyError, TypeError, ValueError) as error:
        raise BadHeader(f"{file_name}: the tensor {name!r} is described wrongly: {error}") from error
    return start, stop
