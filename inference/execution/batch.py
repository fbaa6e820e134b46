"""A step as one packed batch: built in numpy on the host, moved to the device in one copy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inference.attention.base import AttentionMetadata, IntArray, SequenceSlice
from inference.scheduling.step_input import StepInput


@dataclass(frozen=True, slots=True)
class Batch:
    """What the model's forward is given."""

    input_ids: Tensor  # [num_tokens]
    position_ids: Tensor  # [num_tokens], restarting with each sequence
    logit_rows: Tensor  # [num_sampling], tokens whose logits are wanted, in the chunks' order
    metadata: AttentionMetadata


def pack(step: StepInput, *, block_size: int, device: torch.device) -> Batch:
    """Lay the step's chunks end to end."""
    num_tokens = step.num_tokens
    host: IntArray = np.empty((3, num_tokens), dtype=np.int64)  # one buffer, one transfer
    host[0] = step.token_ids
    _, positions, slots = host
    slices: list[SequenceSlice] = []
    logit_rows: list[int] = []
    offset = 0
    columns = zip(step.starts, step.lengths, step.block_tables, step.samples, strict=True)
    for start, length, table, samples in columns:
        end = offset + length
        if length == 1:
            block, within = divmod(start, block_size)
            positions[offset] = start
            slots[offset] = table[block] * block_size + within
        else:
            span = np.arange(start, start + length, dtype=np.int64)
            positions[offset:end] = span
            blocks = np.array(table, dtype=np.int64)[span // block_size]
            slots[offset:end] = blocks * block_size + span % block_size
        slices.append(
            SequenceSlice(offset=offset, num_tokens=length, kv_len=start + length, block_table=table)
        )
        if samples:
            logit_rows.append(end - 1)
        offset = end
    packed = torch.from_numpy(np.concatenate([host.reshape(-1), logit_rows]).astype(np.int64)).to(device)
    tokens = packed[: 3 * num_tokens].view(3, num_tokens)
    return Batch(
        input_ids=tokens[0],
        position_ids=tokens[1],
        logit_rows=packed[3 * num_tokens :],
        metadata=AttentionMetadata(sequences=slices, slots=tokens[2]),
    )
