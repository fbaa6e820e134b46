"""The tilings of products with int8 and int4 weights, by measured rules.

`python -m tests.gpu.sweeps.weight_only` prints what TILINGS is made of.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch

Kind = Literal["int8", "int4", "w8a8"]

# Tokens up to which a tiling of a class serves. Above the last: the weight becomes floats, then cuBLAS.
CLASSES = (8, 16, 32, 64, 128, 256)
SHARED_BYTES_LEFT = 2048  # of a program, for what is no tile
MAX_SPLITS = 4
MIN_STEPS = 4  # tiles of inputs that a program goes through at the least
MAX_WARPS = 16  # of a multiprocessor, that splits are made for


@dataclass(frozen=True, slots=True)
class Processor:
    """The GPU's properties that a tiling depends on."""

    num_multiprocessors: int
    shared_bytes: int  # that one program may have


@lru_cache(maxsize=16)
def processor_of(device: torch.device) -> Processor:
    """Of an NVIDIA GPU."""
    own = torch.cuda.get_device_properties(device)
    shared_bytes: int = own.shared_memory_per_block_optin  # type: ignore[attr-defined]
    return Processor(own.multi_processor_count, shared_bytes)


@dataclass(frozen=True, slots=True)
class Tiling:
    """The tile that a program computes, what it reads at a time, and by how many it is shared."""

    outputs: int
    tokens: int
    inputs: int
    splits: int = 0  # of the sum over the inputs; 0: as many as keep the processors busy
    warps: int = 4
    stages: int = 4
    scales_first: bool = False  # int4: scales go into the weights, not into a group's sums

    def dividing(self, num_inputs: int, *, at_least: int = 32) -> Tiling:
        """With inputs that `num_inputs` can be cut into without a rest, where there are such."""
        inputs = max(self.inputs, at_least)
        while num_inputs % inputs and inputs > at_least:
            inputs //= 2
        return replace(self, inputs=inputs)

    def tiles_per_split(self, num_inputs: int) -> int:
        """Tiles of inputs that one program goes through."""
        num_tiles = -(-num_inputs // self.inputs)
        return -(-num_tiles // self.splits)

    def stage_bytes(self, kind: Kind) -> int:
        """Shared memory of one tile of weights and one of activations."""
        weight_bytes = self.outputs * self.inputs // (2 if kind == "int4" else 1)
        return weight_bytes + self.tokens * self.inputs * (1 if kind == "w8a8" else 2)

    def fitting(self, kind: Kind, processor: Processor) -> Tiling:
        """With no more stages than the shared memory of a program holds."""
        left = processor.shared_bytes - SHARED_BYTES_LEFT
        if self.scales_first:  # scaled weights go through shared memory once more
            left -= 2 * self.outputs * self.inputs
        return replace(self, stages=max(1, min(self.stages, left // self.stage_bytes(kind))))

    def busy(
        self, kind: Kind, num_tokens: int, num_outputs: int, num_inputs: int, processor: Processor
    ) -> Tiling:
        """With the splits settled: so many that the multiprocessors have all the programs that they hold."""
        if self.splits:
            return self
        at_once = min(
            MAX_WARPS // self.warps, processor.shared_bytes // self.stage_bytes(kind) // self.stages
        )
        num_tiles = -(-num_tokens // self.tokens) * -(-num_outputs // self.outputs)
        wanted = max(1, at_once) * processor.num_multiprocessors // num_tiles
        longest = num_inputs // (self.inputs * MIN_STEPS)
        splits = 1
        while splits * 2 <= min(wanted, longest, MAX_SPLITS):
            splits *= 2
        return replace(self, splits=splits)


# By the kind and the class: for weights of so few outputs that their tiles do not occupy all multiprocessors,
# and for the others. What was quickest in the sweep on one H200, over the layers of Llama-3.1-8B.
TILINGS: dict[tuple[Kind, int], tuple[Tiling, Tiling]] = {
    ("int8", 8): (Tiling(64, 8, 128, warps=4, stages=5), Tiling(128, 8, 128, warps=4, stages=4)),
    ("int8", 16): (Tiling(64, 16, 128, warps=2, stages=5), Tiling(64, 16, 128, warps=2, stages=5)),
    ("int8", 32): (Tiling(64, 32, 128, warps=2, stages=4), Tiling(64, 32, 128, warps=2, stages=4)),
    ("int8", 64): (Tiling(64, 64, 128, warps=4, stages=4), Tiling(128, 64, 128, warps=8, stages=4)),
    ("int8", 128): (Tiling(128, 128, 128, warps=8, stages=3), Tiling(128, 128, 64, warps=8, stages=4)),
    ("int8", 256): (Tiling(128, 256, 64, warps=8, stages=5), Tiling(128, 256, 64, warps=8, stages=5)),
    ("w8a8", 8): (Tiling(64, 16, 256, warps=2, stages=4), Tiling(64, 16, 256, warps=2, stages=4)),
    ("w8a8", 16): (Tiling(64, 16, 256, warps=2, stages=4), Tiling(64, 16, 256, warps=2, stages=4)),
    ("w8a8", 32): (Tiling(64, 32, 256, warps=4, stages=4), Tiling(64, 32, 256, warps=4, stages=4)),
    ("w8a8", 64): (Tiling(64, 64, 256, warps=4, stages=4), Tiling(64, 64, 256, warps=4, stages=4)),
    ("w8a8", 128): (Tiling(128, 64, 128, warps=4, stages=4), Tiling(128, 128, 128, warps=8, stages=3)),
    ("w8a8", 256): (Tiling(128, 64, 128, warps=4, stages=4), Tiling(128, 128, 128, warps=8, stages=3)),
    ("int4", 8): (Tiling(32, 8, 256, warps=2, stages=4), Tiling(32, 8, 256, warps=2, stages=4)),
    ("int4", 16): (Tiling(32, 16, 256, warps=2, stages=4), Tiling(64, 16, 256, warps=2, stages=4)),
    ("int4", 32): (Tiling(64, 32, 256, warps=4, stages=3), Tiling(64, 32, 128, warps=2, stages=4)),
    ("int4", 64): (Tiling(64, 64, 256, warps=4, stages=3), Tiling(128, 64, 128, warps=4, stages=4)),
    ("int4", 128): (
        Tiling(128, 128, 128, warps=8, stages=3),
        Tiling(128, 128, 128, warps=8, stages=3, scales_first=True),
    ),
    ("int4", 256): (
        Tiling(128, 128, 128, warps=8, stages=3),
        Tiling(128, 128, 128, warps=8, stages=3, scales_first=True),
    ),
}
OUTPUTS_PER_MULTIPROCESSOR = 64  # from which on a weight counts as wide


def tiling_of(kind: Kind, num_tokens: int, num_outputs: int, num_inputs: int, processor: Processor) -> Tiling:
    """For so many tokens; beyond `CLASSES[-1]` that of the last class."""
    upper = next((upper for upper in CLASSES if num_tokens <= upper), CLASSES[-1])
    is_wide = num_outputs >= OUTPUTS_PER_MULTIPROCESSOR * processor.num_multiprocessors
    fitting = TILINGS[kind, upper][is_wide].fitting(kind, processor)
    return fitting.busy(kind, num_tokens, num_outputs, num_inputs, processor)
