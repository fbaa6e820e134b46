"""Headers that lie about sizes are refused before a library maps the file."""

from __future__ import annotations

import json
import struct
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.checkpoints.safetensors_header import BadHeader, read_header
from inference.convert.gguf.parts import check_gguf
from tests.inference.convert.hostile import gguf_bytes, key, safetensors_bytes, string

F32, Q4_0 = 0, 2
HUGE = 2**62
ARRAY = 9

LYING_GGUF = {
    "another format": gguf_bytes(magic=b"PK\x03\x04"),
    "version 1": gguf_bytes(version=1),
    "big-endian": gguf_bytes(version=0x03000000),
    "no tensors": gguf_bytes(num_tensors=0),
    "more tensors than the file": gguf_bytes(num_tensors=60_000),
    "absurdly many tensors": gguf_bytes(num_tensors=HUGE),
    "absurdly many keys": gguf_bytes(num_keys=HUGE),
    "a string beyond the end": gguf_bytes(keys=key("a", 8, struct.pack("<Q", HUGE)), num_extra_keys=1),
    "numbers beyond the end": gguf_bytes(keys=key("a", ARRAY, struct.pack("<IQ", 7, HUGE)), num_extra_keys=1),
    "strings beyond the end": gguf_bytes(keys=key("a", ARRAY, struct.pack("<IQ", 8, HUGE)), num_extra_keys=1),
    "arrays in arrays in arrays": gguf_bytes(
        keys=key("a", ARRAY, struct.pack("<IQIQIQ", ARRAY, 1, ARRAY, 1, ARRAY, 1)), num_extra_keys=1
    ),
    "an unknown value type": gguf_bytes(keys=key("a", 77, b""), num_extra_keys=1),
    "a key twice": gguf_bytes(keys=key("general.architecture", 8, string("x")), num_extra_keys=1),
    "an alignment of 3": gguf_bytes(
        keys=key("general.alignment", 4, struct.pack("<I", 3)), num_extra_keys=1
    ),
    "a tensor larger than the file": gguf_bytes(tensors=[("w", [2**20], F32, 0)]),
    "a tensor whose size overflows": gguf_bytes(tensors=[("w", [2**32, 2**32, 2**32], F32, 0)]),
    "a tensor behind the end": gguf_bytes(tensors=[("w", [32], F32, 2**40)]),
    "tensors that overlap": gguf_bytes(tensors=[("w", [32], F32, 0), ("v", [32], F32, 64)]),
    "a tensor twice": gguf_bytes(tensors=[("w", [8], F32, 0), ("w", [8], F32, 64)]),
    "an unknown tensor type": gguf_bytes(tensors=[("w", [32], 4000, 0)]),
    "a shape of 0": gguf_bytes(tensors=[("w", [0], F32, 0)]),
    "9 dimensions": gguf_bytes(tensors=[("w", [1] * 9, F32, 0)]),
    "half a block": gguf_bytes(tensors=[("w", [16], Q4_0, 0)]),
    "an offset out of line": gguf_bytes(tensors=[("w", [8], F32, 4)]),
    "nothing": b"",
    "only a magic": b"GGUF",
}  # fmt: skip


def tensor(*, dtype: str = "F32", shape: object = (4,), offsets: object = (0, 16)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


PLAIN = json.dumps(tensor()).encode()
LYING_SAFETENSORS = {
    "nothing": b"",
    "a pickle": b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "a header beyond the end": safetensors_bytes({"w": tensor()}, length=HUGE),
    "a header that is a list": safetensors_bytes([]),
    "deep nesting": safetensors_bytes(b"[" * 100_000),
    "a shape that does not fit": safetensors_bytes({"w": tensor(shape=[5])}),
    "a shape that overflows": safetensors_bytes({"w": tensor(shape=[2**62, 4])}),
    "negative sizes": safetensors_bytes({"w": tensor(shape=[-2, -2])}),
    "offsets behind the end": safetensors_bytes({"w": tensor(offsets=[16, 32])}),
    "fractions": safetensors_bytes({"w": tensor(shape=[4.0])}),
    "an unknown dtype": safetensors_bytes({"w": tensor(dtype="PICKLE")}),
    "no shape": safetensors_bytes({"w": {"dtype": "F32", "data_offsets": [0, 16]}}),
    "tensors that overlap": safetensors_bytes({"w": tensor(), "v": tensor()}),
    "a shape of many numbers": safetensors_bytes({"w": tensor(shape=[2**62] * 100_000)}),
    "a shape of many ones": safetensors_bytes({"w": tensor(shape=[4] + [1] * 100_000)}),
    "a tensor twice": safetensors_bytes(b'{"w": %s, "w": %s}' % (PLAIN, PLAIN)),
    "a shape twice": safetensors_bytes(
        b'{"w": {"dtype": "F32", "shape": [9], "shape": [4], "data_offsets": [0, 16]}}'
    ),
    "metadata twice": safetensors_bytes(b'{"__metadata__": {}, "__metadata__": {}, "w": %s}' % PLAIN),
    "more tensors than any model has": safetensors_bytes(
        {str(number): tensor(shape=[0], offsets=[0, 0]) for number in range(300_000)}, data_bytes=0
    ),
    "a header of spaces": safetensors_bytes(b" " * (40 * 2**20) + b'{"w": %s}' % PLAIN),
    "bytes that belong to none": safetensors_bytes({"w": tensor()}, data_bytes=20),
}


def test_an_honest_gguf_file_passes(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(
        gguf_bytes(keys=key("list", ARRAY, struct.pack("<IQ", 4, 2) + bytes(8)), num_extra_keys=1)
    )
    header = check_gguf(path)
    assert (header.architecture, header.num_weights, header.has_tokenizer) == ("llama", 32, False)


@pytest.mark.parametrize("content", LYING_GGUF.values(), ids=LYING_GGUF.keys())
def test_a_lying_gguf_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(BadHeader):
        check_gguf(path)


def test_an_honest_safetensors_file_passes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes({"__metadata__": {"format": "pt"}, "w": tensor()}))
    assert read_header(path).keys() == {"w"}


@pytest.mark.parametrize("content", LYING_SAFETENSORS.values(), ids=LYING_SAFETENSORS.keys())
def test_a_lying_safetensors_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadHeader):
        read_header(path)


@settings(max_examples=300, deadline=30_000)
@given(st.data())
def test_a_damaged_header_is_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    honest = bytearray(gguf_bytes(tensors=[("w", [8, 4], F32, 0), ("v", [32], Q4_0, 128)]))
    for _ in range(data.draw(st.integers(1, 4))):
        honest[data.draw(st.integers(0, len(honest) - 257))] = data.draw(st.integers(0, 255))
    content = bytes(honest[: data.draw(st.integers(0, len(honest)))])
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        with suppress(BadHeader):
            assert check_gguf(Path(file.name)).num_weights <= 2 * len(content)
