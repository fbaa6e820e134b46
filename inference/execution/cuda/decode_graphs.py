"""Decode steps as CUDA graphs: captured once at padded batch sizes, replayed with new numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from inference.attention.base import IntArray
from inference.attention.split_kv import Cut
from inference.attention.triton import PagedBatch
from inference.execution.cuda.batch import CudaBatch
from inference.execution.cuda.pinned_buffer import ALIGNMENT

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
        self, forward: Forward, tables: Tensor, cut: Cut, *, max_batch: int, vocab_size: int,
        spare_slot: int, dtype: torch.dtype,
    ) -> None:  # fmt: skip
        device = tables.device
        self.sizes = padded_sizes(max_batch)
        self._forward = forward
        self._tables = tables
        self._cut = cut
        self._width = -(-max_batch // ALIGNMENT) * ALIGNMENT
        size = 7 * self._width + 4 * cut.num_items(max_batch)
        self._host = torch.zeros(size, dtype=torch.int32, device="cpu", pin_memory=True)
        self._device = torch.zeros(size, dtype=torch.int32, device=device)
        self._padding = np.array([0, 0, spare_slot, 0, 1], dtype=np.int64)[:, None]
        self._logits = torch.empty(max_batch, vocab_size, dtype=dtype, device=device)
        self._copied = torch.cuda.Event()
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def capture(self) -> Iterator[int]:
        """Capture every size, the largest first; yields each as it is done."""
        pool = None
        for size in reversed(self.sizes):
            self._send(np.broadcast_to(self._padding, (5, size)), size)
            batch = self._batch(size)
            for _ in range(NUM_WARM_UPS):  # on the stream of all engines: kernels share what they count in
                self._forward(batch)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):  # others go on
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
        self._send(numbers, size)
        self._graphs[size].replay()
        return self._logits[:num_rows], self._views(self._device, size)[0][3, :num_rows]

    def _send(self, numbers: IntArray, size: int) -> None:
        """Bring the numbers to where the graph of `size` rows reads them, with rows that pad them to it."""
        num_rows = numbers.shape[1]
        self._copied.synchronize()  # the copy before may still read the buffer
        columns, all_parts, all_items = (view.numpy() for view in self._views(self._host, size))
        columns[:, :num_rows] = numbers
        columns[:, num_rows:] = self._padding
        all_items[:], all_parts[:] = self._cut.items(columns[4].astype(np.int64))
        end = 7 * self._width + all_items.size
        self._device[:end].copy_(self._host[:end], non_blocking=True)
        self._copied.record()

    def _views(self, buffer: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Numbers [5, size], parts [size, 2] and items [num_items, 4] of a batch of `size` rows."""
        width, num_items = self._width, self._cut.num_items(size)
        numbers = buffer[: 5 * width].view(5, width)[:, :size]
        parts = buffer[5 * width : 5 * width + 2 * size].view(size, 2)
        return numbers, parts, buffer[7 * width : 7 * width + 4 * num_items].view(num_items, 4)

    def _batch(self, size: int) -> CudaBatch:
        numbers, parts, items = self._views(self._device, size)
        nothing = numbers[0, :0]
        paged = PagedBatch(
            slots=numbers[2],
            tables=self._tables,
            num_decode=size,
            rows=numbers[3],
            lens=numbers[4],
            items=items,
            parts=parts,
            tiles=nothing.view(0, 1),
            sequences=nothing.view(0, 1),
        )
        return CudaBatch(numbers[0], numbers[1], None, numbers[3], paged)
