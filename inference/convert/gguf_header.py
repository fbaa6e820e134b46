"""The header of a GGUF file, read with every size checked against the file, before a library may map it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import BufferedReader
from math import prod
from pathlib import Path

from gguf.constants import GGML_QUANT_SIZES

from inference.models.safetensors_header import BadHeader

MAX_TENSORS = 65_536
MAX_KEYS = 65_536
MAX_NAME_BYTES = 65_535
MAX_DIMENSIONS = 4
MAX_ARRAY_DEPTH = 2
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


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What the sanity check learns on its way through."""

    architecture: str
    num_weights: int
    has_tokenizer: bool
    licence: str


class _Reader:
    """Reads forward through the header; nothing is read or allocated that the file cannot hold."""

    def __init__(self, file: BufferedReader, size: int) -> None:
        self.file = file
        self.size = size

    def take(self, num_bytes: int) -> bytes:
        self.need(num_bytes)
        return self.file.read(num_bytes)

    def skip(self, num_bytes: int) -> None:
        self.need(num_bytes)
        self.file.seek(num_bytes, 1)

    def need(self, num_bytes: int) -> None:
        left = self.size - self.file.tell()
        if num_bytes > left:
            raise BadHeader(f"the header asks for {num_bytes} bytes where the file has {left} left")

    def number(self, form: str) -> int:
        return int(struct.unpack(form, self.take(struct.calcsize(form)))[0])

    def name(self) -> str:
        length = self.number("<Q")
        if length > MAX_NAME_BYTES:
            raise BadHeader(f"a name of {length} bytes")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise BadHeader("a name that is not UTF-8") from error

    def skip_value(self, kind: int, *, depth: int = 0) -> None:
        if kind in SCALARS:
            self.skip(struct.calcsize(SCALARS[kind]))
        elif kind == STRING:
            self.skip(self.number("<Q"))
        elif kind == ARRAY and depth < MAX_ARRAY_DEPTH:
            self.skip_array(depth=depth + 1)
        else:
            raise BadHeader(f"an unknown value type {kind}, or arrays nested too deeply")

    def skip_array(self, *, depth: int) -> None:
        kind, length = self.number("<I"), self.number("<Q")
        if kind in SCALARS:
            self.skip(length * struct.calcsize(SCALARS[kind]))
            return
        self.need(length * 8)  # a string or an array takes 8 bytes at least
        for _ in range(length):
            self.skip_value(kind, depth=depth)


def check_gguf(path: Path) -> GgufHeader:
    """Raises `BadHeader` where the header does not fit the file or the format."""
    size = path.stat().st_size
    with path.open("rb") as file:
        reader = _Reader(file, size)
        if reader.take(4) != b"GGUF":
            raise BadHeader("not a GGUF file: it does not begin with 'GGUF'")
        version = reader.number("<I")
        if version not in (2, 3):
            raise BadHeader(f"GGUF version {version} is not 2 or 3 (or the file is big-endian)")
        num_tensors, num_keys = reader.number("<Q"), reader.number("<Q")
        if not 0 < num_tensors <= MAX_TENSORS or num_keys > MAX_KEYS:
            raise BadHeader(f"{num_tensors} tensors and {num_keys} keys are not a model")
        architecture, licence, alignment, has_tokenizer = _read_keys(reader, num_keys)
        num_weights = _check_tensors(reader, num_tensors, alignment)
        return GgufHeader(architecture, num_weights, has_tokenizer, licence)


def _read_keys(reader: _Reader, num_keys: int) -> tuple[str, str, int, bool]:
    architecture, licence, alignment = "", "", DEFAULT_ALIGNMENT
    seen: set[str] = set()
    for _ in range(num_keys):
        key, kind = reader.name(), reader.number("<I")
        if key in seen:
            raise BadHeader(f"the key {key!r} comes twice")
        seen.add(key)
        if key == "general.architecture" and kind == STRING:
            architecture = reader.name()
        elif key == "general.license" and kind == STRING:
            licence = reader.name()[:60].lower()
        elif key == "general.alignment" and kind == 4:
            alignment = reader.number("<I")
        else:
            reader.skip_value(kind)
    if not architecture:
        raise BadHeader("no general.architecture")
    if alignment < 8 or alignment > 2**20 or alignment & (alignment - 1):
        raise BadHeader(f"an alignment of {alignment} bytes")
    return architecture, licence, alignment, "tokenizer.ggml.tokens" in seen


def _check_tensors(reader: _Reader, num_tensors: int, alignment: int) -> int:
    """Checks that every tensor lies inside the file and on its own; returns the number of weights."""
    extents: list[tuple[int, int, str]] = []
    names: set[str] = set()
    num_weights = 0
    for _ in range(num_tensors):
        name, num_dimensions = reader.name(), reader.number("<I")
        if name in names:
            raise BadHeader(f"the tensor {name!r} comes twice")
        names.add(name)
        if not 1 <= num_dimensions <= MAX_DIMENSIONS:
            raise BadHeader(f"the tensor {name!r} has {num_dimensions} dimensions")
        shape = [reader.number("<Q") for _ in range(num_dimensions)]
        kind, offset = reader.number("<I"), reader.number("<Q")
        if kind not in BLOCK_SIZES:
            raise BadHeader(f"the tensor {name!r} has an unknown type {kind}")
        weights_per_block, bytes_per_block = BLOCK_SIZES[kind]
        if 0 in shape or shape[0] % weights_per_block or offset % alignment:
            raise BadHeader(f"the tensor {name!r} has a shape or an offset that its type does not allow")
        num_bytes = prod(shape) // weights_per_block * bytes_per_block
        extents.append((offset, offset + num_bytes, name))
        num_weights += prod(shape)
    data_start = -(-reader.file.tell() // alignment) * alignment
    end = 0
    for start, stop, name in sorted(extents):
        if start < end or data_start + stop > reader.size:
            raise BadHeader(f"the tensor {name!r} overlaps another or lies outside the file")
        end = stop
    return num_weights
