"""Block tables on the device: what changed travels, whatever its amount, and rows follow their tables."""

from __future__ import annotations

import pytest
import torch

from inference.execution.cuda import block_tables
from inference.execution.cuda.block_tables import BlockTables

CPU = torch.device("cpu")


def shown(tables: BlockTables, row: int, count: int) -> list[int]:
    tables.flush()
    found: list[int] = tables.tensor[row, :count].tolist()
    return found


@pytest.mark.parametrize("at_once", [3, 4, 1000])
def test_all_changes_arrive_in_however_many_copies(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_tables, "CHANGES_AT_ONCE", at_once)
    tables = BlockTables(num_rows=3, max_blocks=16, device=CPU)
    first = tuple(range(100, 111))
    rows = tables.rows_of([0, 1], [first, (7,)])
    assert shown(tables, rows[0], 11) == list(first)
    assert shown(tables, rows[1], 1) == [7]
    assert tables.rows_of([0, 1], [first, (7, 8, 9)]) == rows
    assert shown(tables, rows[1], 3) == [7, 8, 9]


def test_a_preempted_sequence_brings_its_new_blocks() -> None:
    """Its table has another id then, and may have fewer blocks than before."""
    tables = BlockTables(num_rows=3, max_blocks=16, device=CPU)
    tables.rows_of([5], [(1, 2, 3)])
    tables.flush()
    (row,) = tables.rows_of([6], [(9, 8)])
    assert shown(tables, row, 2) == [9, 8]


def test_rows_of_tables_that_a_step_does_not_use_are_given_out_again() -> None:
    tables = BlockTables(num_rows=2, max_blocks=4, device=CPU)
    tables.rows_of([0, 1], [(1,), (2,)])
    kept, new = tables.rows_of([1, 2], [(2,), (3,)])
    assert (shown(tables, kept, 1), shown(tables, new, 1)) == ([2], [3])
    kept, back = tables.rows_of([1, 0], [(2,), (1, 4)])
    assert (shown(tables, kept, 1), shown(tables, back, 2)) == ([2], [1, 4])


def test_drafts_stand_in_the_row_of_their_sequence() -> None:
    tables = BlockTables(num_rows=1, max_blocks=4, device=CPU)
    assert len(set(tables.rows_of([3, 3, 3], [(1,), (1,), (1,)]))) == 1
