"""What changes logits before a token is chosen: penalties, biases, tokens that are not allowed yet."""

from __future__ import annotations

from collections.abc import Sequence as Seq

import numpy as np
import torch
from torch import Tensor

from inference.protocol.requests import Sampling
from inference.scheduling.sequence import Sequence


def adjust(row: Tensor, sequence: Sequence, *, eos_token_ids: Seq[int]) -> None:
    """Change a row of logits, `[vocab]`, in place.

    Repetition first (Hugging Face's, over prompt and output), then frequency and presence (OpenAI's, over
    the output), then biases, so that a bias of -100 or 100 decides, then the tokens that may not end it yet.
    """
    sampling = sequence.request.sampling
    if sampling.repetition_penalty != 1.0:
        seen = torch.from_numpy(np.unique(sequence.token_ids)).to(row.device)
        scores = row[seen]
        penalty = sampling.repetition_penalty
        row[seen] = torch.where(scores < 0, scores * penalty, scores / penalty)
    if (sampling.presence_penalty or sampling.frequency_penalty) and sequence.num_output_tokens:
        tokens, counts = np.unique(sequence.output_token_ids, return_counts=True)
        amounts = sampling.presence_penalty + sampling.frequency_penalty * counts
        row[torch.from_numpy(tokens).to(row.device)] -= torch.from_numpy(amounts).to(row)
    if sampling.logit_bias:
        biased = torch.tensor(list(sampling.logit_bias), dtype=torch.int64, device=row.device)
        row[biased] += torch.tensor(list(sampling.logit_bias.values()), dtype=row.dtype, device=row.device)
    if sequence.num_output_tokens < sampling.min_tokens:
        row[ending_tokens(sampling, eos_token_ids)] = float("-inf")


def ending_tokens(sampling: Sampling, eos_token_ids: Seq[int]) -> list[int]:
    """Tokens that would end the output."""
    return [*sampling.stop_token_ids, *([] if sampling.ignore_eos else eos_token_ids)]
