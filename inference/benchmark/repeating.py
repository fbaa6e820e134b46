"""Gives a model random weights that repeat one passage, so that n-gram speculation has drafts to accept.

Each token's output weights are made the embedding of the token before it in the passage, so that the score is
highest for what comes next there. What the layers add is noise: the larger the passage's embeddings, the more
seldom it decides, so their standard deviation sets the acceptance rate.
"""

from __future__ import annotations

from typing import Any

import torch

from inference.benchmark.workloads import PASSAGE

HEAD_STD = 0.3  # standard deviation of the output weights: at temperatures below 1 the passage still leads


@torch.no_grad()
def make_repeating(model: Any, *, embedding_std: float, passage: range = PASSAGE) -> None:
    """From whatever token, go on somewhere in the passage, and there mostly in its order.

    `embedding_std`: standard deviation of the passage's embeddings.
    """
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head.weight is embeddings.weight:
        head.weight = torch.nn.Parameter(embeddings.weight.detach().clone(), requires_grad=False)
    ids = torch.tensor(passage, dtype=torch.int64, device=embeddings.weight.device)
    generator = torch.Generator("cpu").manual_seed(0)  # on the CPU: the same on every device
    drawn = torch.randn(
        len(passage), embeddings.weight.shape[1], generator=generator, dtype=torch.float32, device="cpu"
    )
    embeddings.weight[ids] = (drawn * embedding_std).to(embeddings.weight)
    head.weight.zero_()
    head.weight[ids] = (drawn * HEAD_STD).roll(1, dims=0).to(head.weight)
