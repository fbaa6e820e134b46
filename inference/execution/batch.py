"""A plan as one packed batch: built in numpy on the host, moved to the device in one copy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inference.attention.base import IntArray, Layout, Stretch
from inference.scheduling.sequence import Plan


@dataclass(frozen=True, slots=True)
class Batch:
    """What the model's forward is given."""

    input_ids: Tensor  # [num_tokens]
    position_ids: Tensor  # [num_tokens], restarting with each sequence
    logit_rows: Tensor  # [num_sampling], tokens whose logits are wanted, in the plan's order
    layout: Layout


def pack(plan: Plan, *, block_size: int, device: torch.device) -> Batch:
    """Lay the plan's rows end to end."""
    num_tokens = plan.num_tokens
    host: IntArray = np.empty((3, num_tokens), dtype=np.int64)  # one buffer, one transfer
    input_ids, positions, slots = host
    stretches: list[Stretch] = []
    logit_rows: list[int] = []
    offset = 0
    for row in plan.rows:
        sequence = row.sequence
        end = offset + row.num_tokens
        table = sequence.block_table
        if row.num_tokens == 1:
            block, within = divmod(row.start, block_size)
            input_ids[offset] = row.first_token
            positions[offset] = row.start
            slots[offset] = table[block] * block_size + within
        else:
            span = np.arange(row.start, row.end, dtype=np.int64)
            input_ids[offset:end] = sequence.token_ids[row.start : row.end]
            positions[offset:end] = span
            blocks = np.array(table, dtype=np.int64)[span // block_size]
            slots[offset:end] = blocks * block_size + span % block_size
        stretches.append(Stretch(offset=offset, num_tokens=row.num_tokens, kv_len=row.end, block_table=table))
        if row.samples:
            logit_rows.append(end - 1)
        offset = end
    packed = torch.from_numpy(np.concatenate([host.reshape(-1), logit_rows]).astype(np.int64)).to(device)
    tokens = packed[: 3 * num_tokens].view(3, num_tokens)
    return Batch(
        input_ids=tokens[0],
        position_ids=tokens[1],
        logit_rows=packed[3 * num_tokens :],
        layout=Layout(stretches=stretches, slots=tokens[2]),
    )
