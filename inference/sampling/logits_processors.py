"""What changes logits before a token is chosen: penalties, biases, tokens that are not allowed yet."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.protocol.requests import Sampling


def adjust(
    row: Tensor,
    params: Sampling,
    *,
    position: int,
    token_ids: NDArray[np.int64],
    eos_token_ids: Seq[int],
) -> None:
    """Change a row of logits, `[vocab]`, in place.

    Repetition first (Hugging Face's, over prompt and output), then frequency and presence (OpenAI's, over
    the output), then biases, so that a bias of -100 or 100 decides, then the tokens that may not end it yet.
    `token_ids` ends with `position` output tokens; without a penalty it may be empty.
    """
    if params.repetition_penalty != 1.0:
        seen = torch.from_numpy(np.unique(token_ids)).to(row.device)
        scores = row[seen]
        penalty = params.repetition_penalty
        row[seen] = torch.where(scores < 0, scores * penalty, scores / penalty)
    if (params.presence_penalty or params.frequency_penalty) and position:
        tokens, counts = np.unique(token_ids[-position:], return_counts=True)
        amounts = params.presence_penalty + params.frequency_penalty * counts
        row[torch.from_numpy(tokens).to(row.device)] -= torch.from_numpy(amounts).to(row)
    if params.logit_bias:
        biased = torch.tensor(list(params.logit_bias), dtype=torch.int64, device=row.device)
        row[biased] += torch.tensor(list(params.logit_bias.values()), dtype=row.dtype, device=row.device)
    if position < params.min_tokens:
        row[ending_tokens(params, eos_token_ids)] = float("-inf")


def ending_tokens(sampling: Sampling, eos_token_ids: Seq[int]) -> list[int]:
    """Tokens that would end the output."""
    return [*sampling.stop_token_ids, *([] if sampling.ignore_eos else eos_token_ids)]
