"""The running sequences' block tables on the device: a row for each, of which only what changed travels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from inference.execution.cuda.pinned_buffer import ALIGNMENT, Stage
from inference.scheduling.sequence import Sequence, Status

CHANGES_AT_ONCE = 16_384  # that travel in one copy


def table_bytes(max_num_seqs: int, max_blocks: int) -> int:
    """Memory of the tables of so many running sequences, each of so many blocks at most."""
    return num_table_rows(max_num_seqs) * (max_blocks + 1) * torch.int32.itemsize


def num_table_rows(max_num_seqs: int) -> int:
    """Sequences that come take rows before those that left have given theirs back; one row is spare."""
    return 2 * max_num_seqs + 1


class BlockTables:
    """Rows are given out as sequences come and taken back when they no longer run."""

    def __init__(self, *, num_rows: int, max_blocks: int, device: torch.device) -> None:
        self.tensor = torch.zeros(num_rows, max_blocks, dtype=torch.int32, device=device)
        self._stage = Stage(size=2 * (CHANGES_AT_ONCE + ALIGNMENT), device=device)
        self._max_blocks = max_blocks
        self._free = list(range(num_rows))
        self._rows: dict[Sequence, int] = {}
        self._num_preemptions = [0] * num_rows  # of the row's sequence, when its blocks were copied
        self._num_copied = [0] * num_rows  # blocks of the row that the device has
        self._places: list[int] = []  # changes that the device has not seen
        self._blocks: list[int] = []

    def rows_of(self, sequences: Iterable[Sequence]) -> list[int]:
        """Each sequence's row; what is new of their blocks is noted for `flush`."""
        return [self._row_of(sequence) for sequence in sequences]

    def flush(self) -> None:
        """Bring the device up to date."""
        if not self._places:
            return
        changes = np.array([self._places, self._blocks], dtype=np.int64)
        self._places, self._blocks = [], []
        for first in range(0, changes.shape[1], CHANGES_AT_ONCE):
            places, blocks = self._stage.send(*changes[:, first : first + CHANGES_AT_ONCE])
            self.tensor.view(-1).index_copy_(0, places.long(), blocks)

    def _row_of(self, sequence: Sequence) -> int:
        row = self._rows.get(sequence)
        if row is None:
            row = self._rows[sequence] = self._take_row()
            self._num_copied[row] = 0
        elif self._num_preemptions[row] != sequence.num_preemptions:
            self._num_copied[row] = 0
        self._num_preemptions[row] = sequence.num_preemptions
        table, done = sequence.block_table, self._num_copied[row]
        if done < len(table):
            first = row * self._max_blocks
            self._places += range(first + done, first + len(table))
            self._blocks += table[done:]
            self._num_copied[row] = len(table)
        return row

    def _take_row(self) -> int:
        if not self._free:
            for sequence in [one for one in self._rows if one.status is not Status.RUNNING]:
                self._free.append(self._rows.pop(sequence))
        return self._free.pop()
