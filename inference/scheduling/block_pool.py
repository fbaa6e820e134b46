"""Who holds which KV block, and which blocks are remembered by content: the pool and its prefix cache."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Sequence as Seq


class PoolCorrupted(AssertionError):
    """The pool's books contradict each other or the sequences': a bug of ours, never a request's."""


def root_hash(salt: str) -> bytes:
    """Where the chain of block hashes begins: requests of different salts never share a block."""
    return hashlib.sha256(b"pilothouse prefix\0" + salt.encode()).digest()


def chain_hash(parent: bytes, content: bytes) -> bytes:
    """The hash of a full block: its tokens and, through `parent`, all that precede them."""
    return hashlib.sha256(parent + content).digest()


def block_content(token_ids: Seq[int]) -> bytes:
    """A block's tokens as int32: what is hashed, kept and compared."""
    return array("i", token_ids).tobytes()


class Block:
    """A block's books. `hash` and `content` are set while its keys and values may be reused."""

    __slots__ = ("content", "hash", "id", "num_references", "salt")

    def __init__(self, block_id: int) -> None:
        self.id = block_id
        self.num_references = 0
        self.hash: bytes | None = None
        self.salt = ""
        self.content = b""


class BlockPool:
    """Blocks with reference counts. A freed block keeps its content until it is the least recently used.

    Only full blocks are remembered, and a full block is never written again: so sharing needs no copies.
    """

    def __init__(self, *, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.blocks = [Block(block_id) for block_id in range(num_blocks)]
        self._free = OrderedDict(
            (block_id, None) for block_id in range(num_blocks)
        )  # least recently used first
        self._remembered: dict[bytes, Block] = {}
        self.num_cached = 0  # free, but remembered

    @property
    def num_blocks(self) -> int:
        return len(self.blocks)

    @property
    def num_free(self) -> int:
        """Blocks that can be allocated; the remembered ones among them are forgotten only then."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        return len(self.blocks) - len(self._free)

    def allocate(self, num_blocks: int) -> list[int]:
        """Take blocks to write into. The caller has looked at `num_free`."""
        return [self._take_oldest() for _ in range(num_blocks)]

    def _take_oldest(self) -> int:
        block_id, _ = self._free.popitem(last=False)
        block = self.blocks[block_id]
        if block.hash is not None:
            self.forget(block_id)
            self.num_cached -= 1
        block.num_references = 1
        return block_id

    def find(self, block_hash: bytes, *, salt: str, content: bytes) -> int | None:
        """The block that holds exactly this content, if it is remembered. Does not take it."""
        block = self._remembered.get(block_hash)
        if block is None or block.content != content or block.salt != salt:
            return None
        return block.id

    def is_free(self, block_id: int) -> bool:
        return self.blocks[block_id].num_references == 0

    def is_shared(self, block_id: int) -> bool:
        return self.blocks[block_id].num_references > 1

    def share(self, block_id: int) -> None:
        """One more table refers to a remembered block."""
        block = self.blocks[block_id]
        if block.num_references == 0:
            del self._free[block_id]
            self.num_cached -= 1
        block.num_references += 1

    def remember(self, block_id: int, block_hash: bytes, *, salt: str, content: bytes) -> None:
        """A block is full and computed. Where another holds the same content, that one stays remembered."""
        block = self.blocks[block_id]
        if block.hash is not None or block_hash in self._remembered:
            return
        block.hash, block.salt, block.content = block_hash, salt, content
        self._remembered[block_hash] = block

    def forget(self, block_id: int) -> None:
        """A held block's content is not to be found any more."""
        block = self.blocks[block_id]
        if block.hash is not None:
            del self._remembered[block.hash]
            block.hash = None
            block.content = b""

    def release(self, block_table: Seq[int]) -> None:
        """Give back a sequence's blocks: its tail is forgotten first, since others share prefixes."""
        for block_id in reversed(block_table):
            block = self.blocks[block_id]
            block.num_references -= 1
            if block.num_references == 0:
                self._free[block_id] = None
                if block.hash is not None:
                    self.num_cached += 1
                else:
                    self._free.move_to_end(block_id, last=False)

    def check_integrity(self, block_tables: Seq[Seq[int]]) -> None:
        """Compare the books with the tables that sequences hold. Raises `PoolCorrupted`."""
        references = [0] * self.num_blocks
        for table in block_tables:
            for block_id in table:
                references[block_id] += 1
        for block in self.blocks:
            if block.num_references != references[block.id]:
                raise PoolCorrupted(
                    f"block {block.id} counts {block.num_references} references, not {references[block.id]}"
                )
            if (block.num_references == 0) != (block.id in self._free):
                raise PoolCorrupted(f"block {block.id} is free in one book and used in another")
            if block.hash is not None and self._remembered.get(block.hash) is not block:
                raise PoolCorrupted(f"block {block.id} has a hash by which it is not found")
        num_cached = sum(1 for block_id in self._free if self.blocks[block_id].hash is not None)
        if num_cached != self.num_cached or len(self._remembered) != sum(
            b.hash is not None for b in self.blocks
        ):
            raise PoolCorrupted("the prefix cache's counts are wrong")
