"""A step as device tensors for the Triton kernels: one pinned buffer, one copy, decode rows first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from inference.attention.base import IntArray
from inference.attention.split_kv import SplitKV
from inference.attention.triton import PagedBatch
from inference.execution.cuda.block_tables import BlockTables
from inference.execution.cuda.pinned_buffer import PinnedBuffer
from inference.scheduling.step_input import StepInput

NOTHING: IntArray = np.empty((0, 4), dtype=np.int64)


@dataclass(frozen=True, slots=True)
class CudaBatch:
    """What the model's forward is given; all on the device."""

    input_ids: Tensor  # [num_tokens]
    position_ids: Tensor  # [num_tokens]
    logit_rows: Tensor | None  # [num_sampling]; None: every token's
    table_rows: Tensor  # [num_sampling], the sampling sequences' rows of the block tables
    paged: PagedBatch


def num_decode_rows(step: StepInput, *, is_invariant: bool = False) -> int:
    """How many chunks at the front run a single token; in batch-invariant mode, one of the output."""
    for index, length in enumerate(step.lengths):
        if length > 1 or (is_invariant and step.starts[index] < step.num_prompt_tokens[index]):
            return index
    return step.num_chunks


def decode_numbers(step: StepInput, table_rows: list[int], num_decode: int, block_size: int) -> IntArray:
    """`[5, num_decode]`: token, position, slot, row of the block tables, keys of each sequence's token."""
    numbers = np.empty((5, num_decode), dtype=np.int64)
    starts = step.starts[:num_decode]
    numbers[0] = step.token_ids[:num_decode]
    numbers[1] = starts
    tables = step.block_tables[:num_decode]
    blocks = [table[start // block_size] for table, start in zip(tables, starts, strict=True)]
    numbers[2] = np.array(blocks, dtype=np.int64) * block_size + numbers[1] % block_size
    numbers[3] = table_rows[:num_decode]
    numbers[4] = numbers[1] + 1
    return numbers


def pack_mixed(
    step: StepInput,
    tables: BlockTables,
    buffer: PinnedBuffer,
    split_kv: SplitKV,
    *,
    num_decode: int,
    block_size: int,
    tokens_per_tile: int,
) -> CudaBatch:
    """Lay any step end to end, its `num_decode` first chunks as decode."""
    table_rows = tables.rows_of(step.table_ids, step.block_tables)
    tables.flush()
    decode = decode_numbers(step, table_rows, num_decode, block_size)
    tokens = np.empty((3, step.num_tokens), dtype=np.int64)  # ids, positions, slots
    tokens[0] = step.token_ids
    tokens[1:, :num_decode] = decode[1:3]
    offset, sequences, tiles = num_decode, list[tuple[int, ...]](), list[IntArray]()
    logit_rows = [index for index, samples in enumerate(step.samples[:num_decode]) if samples]
    sampling = [row for row, samples in zip(table_rows, step.samples, strict=True) if samples]
    for index in range(num_decode, step.num_chunks):
        start, length = step.starts[index], step.lengths[index]
        end, span = offset + length, np.arange(start, start + length, dtype=np.int64)
        tokens[1, offset:end] = span
        table = np.array(step.block_tables[index], dtype=np.int64)
        tokens[2, offset:end] = table[span // block_size] * block_size + span % block_size
        sequences.append((table_rows[index], offset, length, start + length))
        firsts = np.arange(0, length, tokens_per_tile, dtype=np.int64)
        num_seen = start + firsts
        tiles.append(np.stack([np.full_like(firsts, index - num_decode), firsts, num_seen], axis=1))
        if step.samples[index]:
            logit_rows.append(end - 1)
        offset = end
    all_tiles = np.concatenate(tiles) if tiles else np.empty((0, 3), dtype=np.int64)
    longest_first = np.argsort(-all_tiles[:, 2], kind="stable")  # so that none is left over at the end
    items, parts = split_kv.items(decode[4]) if num_decode else (NOTHING, NOTHING)
    ids, positions, slots, decode_rows, lens, *sent = buffer.send(
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
