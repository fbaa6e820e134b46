"""Decode steps as CUDA graphs: captured once at padded batch sizes, replayed with new numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from inference.attention.base import IntArray
from inference.attention.triton import PagedBatch
from inference.engine.cuda_batch import CudaBatch

Forward = Callable[[CudaBatch], Tensor]  # -> logits [num_rows, vocab]

NUM_WARM_UPS = 2


def padded_sizes(max_batch: int) -> list[int]:
    """Batch sizes that graphs exist for: close together, so that little is computed for nothing."""
    sizes = [1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 80, 96, 112, 128]
    sizes += range(160, max_batch + 1, 32)
    return sorted({size for size in sizes if size < max_batch} | {max_batch})


class DecodeGraphs:
    """One graph a size, all in one memory pool: they never run at the same time."""

    def __init__(
        self, forward: Forward, tables: Tensor, *, max_batch: int, vocab_size: int, spare_slot: int,
        dtype: torch.dtype,
    ) -> None:  # fmt: skip
        device = tables.device
        self.sizes = padded_sizes(max_batch)
        self._forward = forward
        self._tables = tables
        self._host = torch.zeros(5, max_batch, dtype=torch.int32, pin_memory=True)
        self._numbers = torch.zeros(5, max_batch, dtype=torch.int32, device=device)
        self._padding = torch.tensor([0, 0, spare_slot, 0, 1], dtype=torch.int32)[:, None].numpy()
        self._host.numpy()[:] = self._padding
        self._logits = torch.empty(max_batch, vocab_size, dtype=dtype, device=device)
        self._copied = torch.cuda.Event()
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def capture(self) -> Iterator[int]:
        """Capture every size, the largest first; yields each as it is done."""
        self._numbers.copy_(self._host)
        stream = torch.cuda.Stream()
        pool = None
        for size in reversed(self.sizes):
            batch = self._batch(size)
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(NUM_WARM_UPS):
                    self._forward(batch)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                self._logits[:size].copy_(self._forward(batch))
            pool = graph.pool()
            self._graphs[size] = graph
            yield size

    def fits(self, num_rows: int) -> bool:
        """Whether a graph is there for so many rows."""
        return bool(self._graphs) and 0 < num_rows <= self.sizes[-1]

    def run(self, numbers: IntArray) -> tuple[Tensor, Tensor]:
        """Logits [num_rows, vocab] for `decode_numbers`, and the rows' places in the block tables.

        Both are good until the next run.
        """
        num_rows = numbers.shape[1]
        size = next(size for size in self.sizes if size >= num_rows)
        self._copied.synchronize()  # the copy before may still read the buffer
        host = self._host.numpy()
        host[:, :num_rows] = numbers
        host[:, num_rows:size] = self._padding
        self._numbers.copy_(self._host, non_blocking=True)
        self._copied.record()
        self._graphs[size].replay()
        return self._logits[:num_rows], self._numbers[3, :num_rows]

    def _batch(self, size: int) -> CudaBatch:
        numbers = self._numbers[:, :size]
        nothing = self._numbers[0, :0]
        paged = PagedBatch(
            slots=numbers[2],
            tables=self._tables,
            num_decode=size,
            rows=numbers[3],
            lens=numbers[4],
            tiles=nothing.view(0, 1),
            sequences=nothing.view(0, 1),
        )
        return CudaBatch(numbers[0], numbers[1], None, numbers[3], paged)
