"""Cuts the keys of a decode batch into parts of even work, whatever the lengths of its sequences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from inference.attention.base import IntArray

TILE = 64  # keys: a part holds a whole number of tiles
SMALLEST_FIXED = 512  # keys of a part, where all are of the same size
MAX_FIXED_PARTS = 16  # of the longest sequence: each is launched, also for short ones
NUM_WAVES = 2  # programs per multiprocessor that a small batch is cut into


@dataclass(frozen=True, slots=True)
class Cut:
    """How a batch is cut. The same batch size always has the same number of items: fit for CUDA graphs.

    `fixed`: keys of a part, so that a sequence is cut the same way in any company; None: as its company
    demands, so that every part takes about as long.
    """

    num_kv_heads: int
    num_multiprocessors: int
    max_keys: int  # of a sequence
    fixed: int | None = None

    def num_items(self, batch_size: int) -> int:
        """At most so many parts come of a batch of `batch_size` sequences."""
        if self.fixed is not None:
            return batch_size * -(-self.max_keys // self.fixed)
        return batch_size + self._num_extra(batch_size)

    def items(self, lens: IntArray) -> tuple[IntArray, IntArray]:
        """Items [num_items, 4] (sequence, part, parts of it, place), longest first, and parts [batch, 2]
        (first place, how many) of sequences that attend to `lens` [batch] keys. Items without parts idle."""
        batch_size = len(lens)
        size = self.fixed or self._even_size(lens)
        num_parts = np.maximum(1, -(-lens // size))
        ends = np.cumsum(num_parts)
        firsts = ends - num_parts
        sequence = np.repeat(np.arange(batch_size, dtype=np.int64), num_parts)
        place = np.arange(len(sequence), dtype=np.int64)
        items = np.zeros((self.num_items(batch_size), 4), dtype=np.int64)
        order = np.argsort(-(lens / num_parts)[sequence], kind="stable")
        columns = (sequence, place - firsts[sequence], num_parts[sequence], place)
        items[: len(sequence)] = np.stack(columns, axis=1)[order]
        return items, np.stack((firsts, num_parts), axis=1)

    def _num_extra(self, batch_size: int) -> int:
        """Parts beyond one a sequence: half as many again, or as many as keep a small batch's GPU busy.

        So no part of a large batch is longer than two average sequences, and few programs idle.
        """
        return max(batch_size // 2, NUM_WAVES * self.num_multiprocessors // self.num_kv_heads)

    def _even_size(self, lens: IntArray) -> int:
        """The smallest size that makes no more than `num_items`: each sequence adds less than one part to
        what all keys together would be cut into."""
        num_keys = int(lens.sum())
        return max(TILE, -(-num_keys // (self._num_extra(len(lens)) * TILE)) * TILE)


def fixed_part(max_model_len: int) -> int:
    """Keys of a part for a cut that does not look at the batch; of the model's context alone."""
    per_part = -(-max_model_len // MAX_FIXED_PARTS)
    return max(SMALLEST_FIXED, -(-per_part // TILE) * TILE)
