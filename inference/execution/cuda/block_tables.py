"""The running sequences' block tables on the device: a row for each, of which only what changed travels."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np
import torch

from inference.execution.cuda.pinned_buffer import ALIGNMENT, PinnedBuffer

CHANGES_AT_ONCE = 16_384  # that travel in one copy


def table_bytes(max_num_seqs: int, max_blocks: int) -> int:
    """Memory of the tables of so many running sequences, each of so many blocks at most."""
    return num_table_rows(max_num_seqs) * (max_blocks + 1) * torch.int32.itemsize


def num_table_rows(max_num_seqs: int) -> int:
    """Sequences that come take rows before those that left have given theirs back; one row is spare."""
    return 2 * max_num_seqs + 1


class BlockTables:
    """Rows are given out as tables come. When none is left, those that a step does not use go back."""

    def __init__(self, *, num_rows: int, max_blocks: int, device: torch.device) -> None:
        self.tensor = torch.zeros(num_rows, max_blocks, dtype=torch.int32, device=device)
        self._buffer = PinnedBuffer(size=2 * (CHANGES_AT_ONCE + ALIGNMENT), device=device)
        self._max_blocks = max_blocks
        self._free = list(range(num_rows))
        self._rows: dict[int, int] = {}  # by the tables' ids
        self._num_copied = [0] * num_rows  # blocks of the row that the device has
        self._places: list[int] = []  # changes that the device has not seen
        self._blocks: list[int] = []

    def rows_of(self, table_ids: Seq[int], block_tables: Seq[Seq[int]]) -> list[int]:
        """Each table's row, for all tables of a step; what is new of their blocks is noted for `flush`."""
        rows: list[int] = []
        for table_id, blocks in zip(table_ids, block_tables, strict=True):
            row = self._rows.get(table_id)
            if row is None:
                row = self._rows[table_id] = self._take_row(table_ids)
                self._num_copied[row] = 0
            if self._num_copied[row] < len(blocks):
                self._note(row, blocks)
            rows.append(row)
        return rows

    def flush(self) -> None:
        """Bring the device up to date."""
        if not self._places:
            return
        changes = np.array([self._places, self._blocks], dtype=np.int64)
        self._places, self._blocks = [], []
        for first in range(0, changes.shape[1], CHANGES_AT_ONCE):
            places, blocks = self._buffer.send(*changes[:, first : first + CHANGES_AT_ONCE])
            self.tensor.view(-1).index_copy_(0, places.long(), blocks)

    def _note(self, row: int, blocks: Seq[int]) -> None:
        first, done = row * self._max_blocks, self._num_copied[row]
        self._places += range(first + done, first + len(blocks))
        self._blocks += blocks[done:]
        self._num_copied[row] = len(blocks)

    def _take_row(self, table_ids: Seq[int]) -> int:
        """A free row. Tables not of this step give theirs back, and are copied again if they return."""
        if not self._free:
            in_use = set(table_ids)
            for table_id in [one for one in self._rows if one not in in_use]:
                self._free.append(self._rows.pop(table_id))
        return self._free.pop()
