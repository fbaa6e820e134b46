"""How large a KV pool becomes, from figures alone: the engine plans by these rules, and the console estimates
with them before anything is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass

CPU_MAX_TOKENS = 32_768  # a small machine's batch needs no more, and others need the memory
LEAST_TOKENS = 256  # a pool that holds fewer serves nobody, unless the model's context is shorter


@dataclass(frozen=True, slots=True)
class Pool:
    """What decides how large a KV pool may become."""

    token_bytes: int  # of one token over all layers, keys and values
    block_size: int  # tokens
    max_model_len: int
    max_num_seqs: int
    is_cuda: bool

    @property
    def block_bytes(self) -> int:
        return self.token_bytes * self.block_size

    @property
    def blocks_per_context(self) -> int:
        return -(-self.max_model_len // self.block_size)

    @property
    def least_blocks(self) -> int:
        """Fewer would not hold a single useful sequence."""
        return -(-min(LEAST_TOKENS, self.max_model_len) // self.block_size)

    @property
    def useful_blocks(self) -> int:
        """More than a full batch of longest sequences could never be used."""
        useful = self.max_num_seqs * self.blocks_per_context
        if not self.is_cuda:
            useful = min(useful, max(2 * self.blocks_per_context, CPU_MAX_TOKENS // self.block_size))
        return useful

    def blocks_within(self, num_bytes: int) -> int:
        """Blocks of a pool that takes no more than this; may be too few to be of use."""
        return max(0, min(num_bytes // self.block_bytes, self.useful_blocks))
