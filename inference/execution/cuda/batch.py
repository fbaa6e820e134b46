"""A plan as device tensors for the Triton kernels: one pinned buffer, one copy, decode rows first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from inference.attention.base import IntArray
from inference.attention.split_kv import Cut
from inference.attention.triton import PagedBatch
from inference.execution.cuda.block_tables import BlockTables
from inference.execution.cuda.pinned_buffer import Stage
from inference.scheduling.batch_invariance import is_prefill
from inference.scheduling.sequence import Plan, Row

NOTHING: IntArray = np.empty((0, 4), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class CudaBatch:
    """What the model's forward is given; all on the device."""

    input_ids: Tensor  # [num_tokens]
    position_ids: Tensor  # [num_tokens]
    logit_rows: Tensor | None  # [num_sampling]; None: every token's
    table_rows: Tensor  # [num_sampling], the sampling sequences' rows of the block tables
    paged: PagedBatch


def num_decode_rows(rows: tuple[Row, ...], *, is_invariant: bool = False) -> int:
    """How many rows at the front run a single token; in batch-invariant mode, one of the output."""
    for index, row in enumerate(rows):
        if row.num_tokens > 1 or (is_invariant and is_prefill(row)):
            return index
    return len(rows)


def decode_numbers(rows: tuple[Row, ...], table_rows: list[int], block_size: int) -> IntArray:
    """`[5, num_rows]`: token, position, slot, row of the block tables, keys of each sequence's token."""
    numbers = np.empty((5, len(rows)), dtype=np.int64)
    starts = [row.start for row in rows]
    numbers[0] = [row.first_token for row in rows]
    numbers[1] = starts
    blocks = [row.sequence.block_table[row.start // block_size] for row in rows]
    numbers[2] = np.array(blocks, dtype=np.int64) * block_size + numbers[1] % block_size
    numbers[3] = table_rows
    numbers[4] = numbers[1] + 1
    return numbers


def pack_mixed(
    plan: Plan,
    tables: BlockTables,
    stage: Stage,
    cut: Cut,
    *,
    num_decode: int,
    block_size: int,
    tokens_per_tile: int,
) -> CudaBatch:
    """Lay any plan end to end, its `num_decode` first rows as decode."""
    rows = plan.rows
    table_rows = tables.rows_of([row.sequence for row in rows])
    tables.flush()
    decode = decode_numbers(rows[:num_decode], table_rows[:num_decode], block_size)
    tokens = np.empty((3, plan.num_tokens), dtype=np.int64)  # ids, positions, slots
    tokens[:, :num_decode] = decode[:3]
    offset, sequences, tiles = num_decode, list[tuple[int, ...]](), list[IntArray]()
    logit_rows = [index for index, row in enumerate(rows[:num_decode]) if row.samples]
    sampling = [table_row for table_row, row in zip(table_rows, rows, strict=True) if row.samples]
    for index, row in enumerate(rows[num_decode:]):
        end, span = offset + row.num_tokens, np.arange(row.start, row.end, dtype=np.int64)
        tokens[0, offset:end] = row.sequence.token_ids[row.start : row.end]
        tokens[1, offset:end] = span
        table = np.array(row.sequence.block_table, dtype=np.int64)
        tokens[2, offset:end] = table[span // block_size] * block_size + span % block_size
        sequences.append((table_rows[num_decode + index], offset, row.num_tokens, row.end))
        firsts = np.arange(0, row.num_tokens, tokens_per_tile, dtype=np.int64)
        num_seen = row.start + firsts
        tiles.append(np.stack([np.full_like(firsts, index), firsts, num_seen], axis=1))
        if row.samples:
            logit_rows.append(end - 1)
        offset = end
    all_tiles = np.concatenate(tiles) if tiles else np.empty((0, 3), dtype=np.int64)
    longest_first = np.argsort(-all_tiles[:, 2], kind="stable")  # so that none is left over at the end
    items, parts = cut.items(decode[4]) if num_decode else (NOTHING, NOTHING)
    ids, positions, slots, decode_rows, lens, *sent = stage.send(
        *tokens,
        *decode[3:],
        items,
        parts,
        np.array(logit_rows, dtype=np.int64),
        np.array(sampling, dtype=np.int64),
        all_tiles[longest_first, :2],
        np.array(sequences, dtype=np.int64).reshape(-1, 4),
    )
    sent_items, sent_parts, logits, sampled, sent_tiles, sent_sequences = sent
    paged = PagedBatch(
        slots=slots,
        tables=tables.tensor,
        num_decode=num_decode,
        rows=decode_rows,
        lens=lens,
        items=sent_items,
        parts=sent_parts,
        tiles=sent_tiles,
        sequences=sent_sequences,
    )
    return CudaBatch(ids, positions, logits, sampled, paged)
