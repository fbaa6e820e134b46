"""Block tables on the device: what changed travels, whatever its amount, and rows follow their sequences."""

from __future__ import annotations

import pytest
import torch

from inference.execution.cuda import block_tables
from inference.execution.cuda.block_tables import BlockTables
from inference.protocol.requests import GenerateRequest, Owner
from inference.scheduling.sequence import Sequence, Status

CPU = torch.device("cpu")


def sequence(name: str, blocks: list[int]) -> Sequence:
    request = GenerateRequest(request_id=name, revision="r", token_ids=(1,), owner=Owner("o", salt=""))
    made = Sequence(request, arrived_at=0.0, max_tokens=1, seed=0, block_table=blocks)
    made.status = Status.RUNNING
    return made


def shown(tables: BlockTables, row: int, count: int) -> list[int]:
    tables.flush()
    found: list[int] = tables.tensor[row, :count].tolist()
    return found


@pytest.mark.parametrize("at_once", [3, 4, 1000])
def test_all_changes_arrive_in_however_many_copies(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_tables, "CHANGES_AT_ONCE", at_once)
    tables = BlockTables(num_rows=3, max_blocks=16, device=CPU)
    first, second = sequence("a", list(range(100, 111))), sequence("b", [7])
    rows = tables.rows_of([first, second])
    assert shown(tables, rows[0], 11) == list(range(100, 111))
    assert shown(tables, rows[1], 1) == [7]
    second.block_table += [8, 9]
    assert tables.rows_of([first, second]) == rows
    assert shown(tables, rows[1], 3) == [7, 8, 9]


def test_a_preempted_sequence_brings_its_new_blocks() -> None:
    tables = BlockTables(num_rows=3, max_blocks=16, device=CPU)
    only = sequence("a", [1, 2, 3])
    tables.rows_of([only])
    tables.flush()
    only.num_preemptions, only.block_table = 1, [9, 8]
    (row,) = tables.rows_of([only])
    assert shown(tables, row, 2) == [9, 8]


def test_rows_of_ended_sequences_are_given_out_again() -> None:
    tables = BlockTables(num_rows=1, max_blocks=4, device=CPU)
    before = sequence("a", [1])
    tables.rows_of([before])
    before.status = Status.FINISHED
    (row,) = tables.rows_of([sequence("b", [2])])
    assert shown(tables, row, 1) == [2]
