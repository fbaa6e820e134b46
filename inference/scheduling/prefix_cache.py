"""Finds a sequence's blocks by content, so that what is computed once is not computed again."""

from __future__ import annotations

from inference.scheduling.batch_invariance import ORDINARY, ChunkPolicy
from inference.scheduling.block_pool import BlockPool, block_content, chain_hash, root_hash
from inference.scheduling.sequence import Sequence


class PrefixCache:
    """The prefixes of one pool, apart by the owners' salts. Counts prompt tokens looked up and found."""

    def __init__(
        self, pool: BlockPool, *, is_enabled: bool = True, chunk_policy: ChunkPolicy = ORDINARY
    ) -> None:
        self.pool = pool
        self.is_enabled = is_enabled
        self.chunk_policy = chunk_policy
        self.num_queries = 0
        self.num_hits = 0
        self._computing: dict[bytes, Sequence] = {}  # full blocks that a running sequence is about to compute

    def find(self, sequence: Sequence) -> list[int]:
        """The longest run of remembered blocks that leaves a token to compute: logits come from it."""
        if not self.is_enabled:
            return []
        num_blocks = self._num_findable(sequence)
        self._hash(sequence, num_blocks)
        salt = sequence.request.owner.salt
        found: list[int] = []
        for index in range(num_blocks):
            content = self._content(sequence, index)
            block_id = self.pool.find(sequence.block_hashes[index], salt=salt, content=content)
            if block_id is None:
                break
            found.append(block_id)
        return found[: self.chunk_policy.num_usable_blocks(len(found), block_size=self.pool.block_size)]

    def is_worth_waiting(self, sequence: Sequence, *, num_found: int) -> bool:
        """Whether the first block not found is being computed by a sequence of no lower priority.

        That one runs before this one would, so the wait ends; a burst of equal prompts computes them once.
        """
        if not self.is_enabled or num_found >= self._num_findable(sequence):
            return False
        leader = self._computing.get(sequence.block_hashes[num_found])
        return leader is not None and leader.request.priority >= sequence.request.priority

    def announce(self, sequence: Sequence) -> None:
        """The sequence was admitted: what it has not found, it computes."""
        if not self.is_enabled:
            return
        num_full = self._num_shareable(sequence, len(sequence.token_ids) // self.pool.block_size)
        self._hash(sequence, num_full)
        for block_hash in sequence.block_hashes[
            sequence.num_computed_tokens // self.pool.block_size : num_full
        ]:
            self._computing.setdefault(block_hash, sequence)

    def remember(self, sequence: Sequence, *, first: int, end: int) -> None:
        """Blocks `first .. end` of the sequence are full and computed: others may share them."""
        if not self.is_enabled:
            return
        end = self._num_shareable(sequence, end)
        self._hash(sequence, end)
        salt = sequence.request.owner.salt
        for index in range(first, end):
            block_hash = sequence.block_hashes[index]
            content = self._content(sequence, index)
            self.pool.remember(sequence.block_table[index], block_hash, salt=salt, content=content)
            self._forget_leader(block_hash, sequence)

    def withdraw(self, sequence: Sequence) -> None:
        """The sequence leaves its blocks: what is not remembered by now, it will not compute."""
        for block_hash in sequence.block_hashes:
            self._forget_leader(block_hash, sequence)

    def count(self, sequence: Sequence) -> None:
        """Note a sequence's first admission in the totals."""
        if self.is_enabled:
            self.num_queries += sequence.num_prompt_tokens
            self.num_hits += sequence.num_cached_tokens

    def _num_findable(self, sequence: Sequence) -> int:
        """Blocks at the sequence's beginning that others may have computed."""
        return self.chunk_policy.num_findable_blocks(sequence, block_size=self.pool.block_size)

    def _num_shareable(self, sequence: Sequence, num_full: int) -> int:
        """Of the sequence's `num_full` full blocks, those that others may take."""
        return self.chunk_policy.num_shareable_blocks(sequence, num_full, block_size=self.pool.block_size)

    def _forget_leader(self, block_hash: bytes, sequence: Sequence) -> None:
        if self._computing.get(block_hash) is sequence:
            del self._computing[block_hash]

    def _content(self, sequence: Sequence, index: int) -> bytes:
        start = index * self.pool.block_size
        return block_content(sequence.token_ids[start : start + self.pool.block_size])

    def _hash(self, sequence: Sequence, num_blocks: int) -> None:
        """Extend the sequence's chain of hashes to its first `num_blocks` blocks."""
        hashes = sequence.block_hashes
        while len(hashes) < num_blocks:
            parent = hashes[-1] if hashes else root_hash(sequence.request.owner.salt)
            hashes.append(chain_hash(parent, self._content(sequence, len(hashes))))
