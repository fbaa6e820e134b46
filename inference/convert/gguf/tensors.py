"""Tensors of a GGUF file as float32: read from where they lie, whole or some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from inference.convert.gguf.header import BLOCK_SIZES, GgufTensor

PIECE_WEIGHTS = 8 * 2**20  # at a time: 32 MiB as float32, and what dequantizing takes beside them

Floats = np.ndarray[Any, np.dtype[np.float32]]


def read_tensor(tensor: GgufTensor) -> Floats:
    """The whole tensor as float32, in torch's order of dimensions."""
    rows = np.concatenate(list(pieces(tensor)))
    return rows.reshape(tensor.shape[::-1])


def pieces(tensor: GgufTensor) -> Iterator[Floats]:
    """The tensor's rows as float32, in pieces."""
    width = tensor.shape[0]
    weights_per_block, bytes_per_block = BLOCK_SIZES[tensor.kind]
    row_bytes = width // weights_per_block * bytes_per_block
    raw = np.memmap(tensor.file, np.uint8, "r", tensor.start, (tensor.num_bytes // row_bytes, row_bytes))
    num_rows = max(1, PIECE_WEIGHTS // width)
    for first in range(0, len(raw), num_rows):
        blocks = np.array(raw[first : first + num_rows], dtype=raw.dtype)
        yield dequantize(blocks, GGMLQuantizationType(tensor.kind)).astype(np.float32, copy=False)
