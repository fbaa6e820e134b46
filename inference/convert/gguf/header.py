"""The header of a GGUF file, read with every size checked against the file, before a library may map it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import BufferedReader
from math import prod
from pathlib import Path
from typing import Any

from gguf.constants import GGML_QUANT_SIZES

from inference.checkpoints.safetensors_header import BadHeader

MAX_TENSORS = 65_536
MAX_KEYS = 65_536
MAX_NAME_BYTES = 65_535
MAX_DIMENSIONS = 4
MAX_ARRAY_DEPTH = 2
MAX_KEYS_BYTES = 256 * 2**20  # of all keys with their values, which are kept: vocabularies take some 10 MB
DEFAULT_ALIGNMENT = 32

# value type -> struct format; 8 is a string, 9 an array
SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
STRING, ARRAY = 8, 9
BLOCK_SIZES = {
    int(kind): size for kind, size in GGML_QUANT_SIZES.items()
}  # type -> (weights, bytes) of a block


class CannotConvert(ValueError):
    """A GGUF file that cannot be converted to the same model."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor's type, shape and position in the file."""

    name: str
    shape: tuple[int, ...]  # the fastest dimension first, as GGUF says it
    kind: int  # of its blocks, as GGML numbers them
    file: Path
    start: int  # from the beginning of the file
    num_bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """A file's metadata and tensor table; nested arrays are not read."""

    keys: dict[str, Any]
    tensors: dict[str, GgufTensor]

    @property
    def architecture(self) -> str:
        return self.text("general.architecture")

    @property
    def licence(self) -> str:
        return self.text("general.license")[:60].lower()

    @property
    def num_weights(self) -> int:
        return sum(prod(tensor.shape) for tensor in self.tensors.values())

    def text(self, key: str) -> str:
        """ "" where the file does not say, or says something else than text."""
        value = self.keys.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int | None:
        """None where the file does not say, or says something else than a whole number."""
        value = self.keys.get(key)
        return value if type(value) is int else None

    def of_model(self, name: str) -> Any:
        """A number under the architecture's prefix; None where there is none."""
        return self.keys.get(f"{self.architecture}.{name}")


class _Reader:
    """Reads forward through the header; nothing is read or allocated that the file cannot hold."""

    def __init__(self, file: BufferedReader, size: int) -> None:
        self.file = file
        self.size = size
        self.position = 0

    def take(self, num_bytes: int) -> bytes:
        self.need(num_bytes)
        self.position += num_bytes
        return self.file.read(num_bytes)

    def need(self, num_bytes: int) -> None:
        left = self.size - self.position
        if num_bytes > left:
            raise BadHeader(f"the header asks for {num_bytes} bytes where the file has {left} left")
        if self.position + num_bytes > MAX_KEYS_BYTES:
            raise BadHeader(f"the header is larger than {MAX_KEYS_BYTES} bytes")

    def number(self, form: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def name(self) -> str:
        length = self.number("<Q")
        if length > MAX_NAME_BYTES:
            raise BadHeader(f"a name of {length} bytes")
        return self._utf8(length)

    def text(self) -> str:
        return self._utf8(self.number("<Q"))

    def _utf8(self, length: int) -> str:
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise BadHeader("a text that is not UTF-8") from error

    def value(self, kind: int, *, depth: int = 0) -> Any:
        if kind in SCALARS:
            form = SCALARS[kind]
            return struct.unpack(form, self.take(struct.calcsize(form)))[0]
        if kind == STRING:
            return self.text()
        if kind == ARRAY and depth < MAX_ARRAY_DEPTH:
            return self._array(depth=depth + 1)
        raise BadHeader(f"an unknown value type {kind}, or arrays nested too deeply")

    def _array(self, *, depth: int) -> list[Any]:
        kind, length = self.number("<I"), self.number("<Q")
        if kind in SCALARS:
            form = SCALARS[kind][1]
            raw = self.take(length * struct.calcsize(f"<{form}"))
            return list(struct.unpack(f"<{length}{form}", raw))
        self.need(length * 8)  # a string or an array takes 8 bytes at least
        if kind == STRING:
            return [self.text() for _ in range(length)]
        return [self.value(kind, depth=depth) for _ in range(length)]


def read_gguf(path: Path) -> GgufHeader:
    """One file's header. Raises `BadHeader` where it does not fit the file or the format."""
    size = path.stat().st_size
    with path.open("rb") as file:
        reader = _Reader(file, size)
        if reader.take(4) != b"GGUF":
            raise BadHeader("not a GGUF file: it does not begin with 'GGUF'")
        version = reader.number("<I")
        if version not in (2, 3):
            raise BadHeader(f"GGUF version {version} is not 2 or 3 (or the file is big-endian)")
        num_tensors, num_keys = reader.number("<Q"), reader.number("<Q")
        if num_tensors > MAX_TENSORS or num_keys > MAX_KEYS:
            raise BadHeader(f"{num_tensors} tensors and {num_keys} keys are not a model")
        keys = _read_keys(reader, num_keys)
        return GgufHeader(keys, _read_tensors(reader, num_tensors, path, _alignment(keys)))


def _read_keys(reader: _Reader, num_keys: int) -> dict[str, Any]:
    keys: dict[str, Any] = {}
    for _ in range(num_keys):
        key, kind = reader.name(), reader.number("<I")
        if key in keys:
            raise BadHeader(f"the key {key!r} comes twice")
        keys[key] = reader.value(kind)
    return keys


def _alignment(keys: dict[str, Any]) -> int:
    alignment = keys.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 8 <= alignment <= 2**20 or alignment & (alignment - 1):
        raise BadHeader(f"an alignment of {alignment} bytes")
    return alignment


def _read_tensors(reader: _Reader, num_tensors: int, path: Path, alignment: int) -> dict[str, GgufTensor]:
    """The tensor table; tensors must lie inside the file and not overlap."""
    found: list[tuple[str, tuple[int, ...], int, int, int]] = []
    for _ in range(num_tensors):
        name, num_dimensions = reader.name(), reader.number("<I")
        if not 1 <= num_dimensions <= MAX_DIMENSIONS:
            raise BadHeader(f"the tensor {name!r} has {num_dimensions} dimensions")
        shape = tuple(reader.number("<Q") for _ in range(num_dimensions))
        kind, offset = reader.number("<I"), reader.number("<Q")
        if kind not in BLOCK_SIZES:
            raise BadHeader(f"the tensor {name!r} has an unknown type {kind}")
        weights_per_block, bytes_per_block = BLOCK_SIZES[kind]
        if 0 in shape or shape[0] % weights_per_block or offset % alignment:
            raise BadHeader(f"the tensor {name!r} has a shape or an offset that its type does not allow")
        found.append((name, shape, kind, offset, prod(shape) // weights_per_block * bytes_per_block))
    data_start = -(-reader.position // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    end = data_start
    for name, shape, kind, offset, num_bytes in sorted(found, key=lambda one: one[3]):
        start = data_start + offset
        if start < end or start + num_bytes > reader.size:
            raise BadHeader(f"the tensor {name!r} overlaps another or lies outside the file")
        if name in tensors:
            raise BadHeader(f"the tensor {name!r} comes twice")
        tensors[name] = GgufTensor(name, shape, kind, path, start, num_bytes)
        end = start + num_bytes
    return tensors
