"""Starts steps on the GPU: the tokens they choose stay there for the next step, and are read later."""

from __future__ import annotations

import torch
from torch import Tensor

from inference.execution.cuda.runner import CudaRunner
from inference.kernels.greedy import choose_greedily
from inference.protocol.requests import Sampling
from inference.sampling.sampler import BatchSampler, is_drawn
from inference.scheduling.step_input import SamplingInput, StepInput, is_adjusted

NUM_BUFFERS = 3  # steps whose tokens may be unread at the same time, and one to spare


class CudaLaunched:
    """Tokens on their way to the host."""

    def __init__(self, tokens: Tensor, arrived: torch.cuda.Event) -> None:
        self._tokens = tokens
        self._arrived = arrived

    def read(self) -> list[int | None]:
        self._arrived.synchronize()
        return [token_id if token_id >= 0 else None for token_id in self._tokens.tolist()]


class CudaLauncher:
    """Launches what the runner runs and the sampler chooses without a look back by the host."""

    def __init__(self, runner: CudaRunner, sampler: BatchSampler, *, max_num_seqs: int) -> None:
        self._runner = runner
        self._sampler = sampler
        self._buffers = [
            torch.empty(max_num_seqs, dtype=torch.int32, device="cpu", pin_memory=True)
            for _ in range(NUM_BUFFERS)
        ]
        self._num_launched = 0

    def takes(self, step: StepInput) -> bool:
        sampling = step.sampling
        return not any(map(looks_back, sampling.params, sampling.positions))

    @torch.inference_mode()
    def launch(self, step: StepInput) -> CudaLaunched:
        sampling = step.sampling
        logits, rows = self._runner.start(step)
        buffer = self._buffers[self._num_launched % NUM_BUFFERS][: len(sampling.params)]
        self._num_launched += 1
        if sampling.params:
            buffer.copy_(self._choose(logits, rows, sampling), non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()
        return CudaLaunched(buffer, arrived)

    def _choose(self, logits: Tensor, rows: Tensor, sampling: SamplingInput) -> Tensor:
        """Token ids `[num_rows]`, -1 where the logits were not finite; also left for the next step."""
        last_tokens = self._runner.last_tokens
        if not any(map(is_drawn, sampling.params)):
            return choose_greedily(logits, rows, last_tokens)
        chosen, usable = self._sampler.choose(logits, sampling)
        last_tokens.index_copy_(0, rows.long(), chosen.to(torch.int32))
        return torch.where(usable, chosen, -1).to(torch.int32)


def looks_back(params: Sampling, position: int) -> bool:
    """Whether choosing the next token takes the sequence's earlier ones, or tells more than the token."""
    return params.logprobs is not None or is_adjusted(params, position)
