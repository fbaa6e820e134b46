"""The KV pool's books, and what is forgotten first."""

from __future__ import annotations

import pytest

from inference.scheduling.block_pool import BlockPool, PoolCorrupted, block_content, chain_hash, root_hash


def fill(pool: BlockPool, block_id: int, token_ids: list[int], *, salt: str = "a") -> bytes:
    content = block_content(token_ids)
    block_hash = chain_hash(root_hash(salt), content)
    pool.remember(block_id, block_hash, salt=salt, content=content)
    return block_hash


def test_blocks_without_content_are_used_before_remembered_ones() -> None:
    pool = BlockPool(num_blocks=4, block_size=2)
    table = pool.allocate(2)
    fill(pool, table[0], [1, 2])
    remembered, blank = table
    pool.release(table)
    assert pool.num_cached == 1
    order = pool.allocate(4)
    assert order[0] == blank
    assert order[-1] == remembered
    assert pool.num_cached == 0


def test_the_least_recently_used_content_is_forgotten_first_and_a_tail_before_its_prefix() -> None:
    pool = BlockPool(num_blocks=4, block_size=1)
    old, new = pool.allocate(2), pool.allocate(2)
    hashes = {block_id: fill(pool, block_id, [block_id]) for block_id in old + new}
    tables = list(old), list(new)
    pool.release(old)
    pool.release(new)
    assert pool.allocate(4) == [tables[0][1], tables[0][0], tables[1][1], tables[1][0]]
    assert len(set(hashes.values())) == 4


def test_a_remembered_block_is_found_by_hash_salt_and_tokens_alone() -> None:
    pool = BlockPool(num_blocks=2, block_size=2)
    (block_id,) = pool.allocate(1)
    block_hash = fill(pool, block_id, [1, 2])
    assert pool.find(block_hash, salt="a", content=block_content([1, 2])) == block_id
    assert pool.find(block_hash, salt="b", content=block_content([1, 2])) is None
    assert pool.find(block_hash, salt="a", content=block_content([1, 3])) is None


def test_sharing_a_free_block_keeps_it_from_being_allocated() -> None:
    pool = BlockPool(num_blocks=2, block_size=2)
    table = pool.allocate(1)
    fill(pool, table[0], [1, 2])
    shared = table[0]
    pool.release(table)
    pool.share(shared)
    pool.share(shared)
    assert pool.num_free == 1 and pool.num_cached == 0 and pool.is_shared(shared)
    pool.release([shared])
    assert pool.num_used == 1
    pool.check_integrity([[shared]])


def test_of_two_blocks_with_the_same_content_one_is_remembered() -> None:
    pool = BlockPool(num_blocks=2, block_size=2)
    first, second = pool.allocate(2)
    block_hash = fill(pool, first, [1, 2])
    fill(pool, second, [1, 2])
    assert pool.find(block_hash, salt="a", content=block_content([1, 2])) == first
    pool.release([second, first])
    pool.check_integrity([])
    assert pool.num_cached == 1


def test_forgotten_content_is_not_found() -> None:
    pool = BlockPool(num_blocks=1, block_size=2)
    (block_id,) = pool.allocate(1)
    block_hash = fill(pool, block_id, [1, 2])
    pool.forget(block_id)
    pool.forget(block_id)
    assert pool.find(block_hash, salt="a", content=block_content([1, 2])) is None
    pool.check_integrity([[block_id]])


def test_hashes_differ_by_salt_by_tokens_and_by_what_precedes() -> None:
    content = block_content([1, 2])
    assert root_hash("a") != root_hash("b")
    assert chain_hash(root_hash("a"), content) != chain_hash(root_hash("b"), content)
    assert chain_hash(chain_hash(root_hash("a"), content), content) != chain_hash(root_hash("a"), content)
    assert len(root_hash("a")) == 32


@pytest.mark.parametrize("flaw", ["leak", "double free", "wrong count", "lost hash", "stray cache entry"])
def test_integrity_check_finds(flaw: str) -> None:
    pool = BlockPool(num_blocks=3, block_size=2)
    table = pool.allocate(2)
    fill(pool, table[0], [1, 2])
    pool.check_integrity([table])
    tables = [list(table)]
    if flaw == "leak":
        tables = [table[:1]]
    elif flaw == "double free":
        pool._free[table[0]] = None
    elif flaw == "wrong count":
        pool.num_cached += 1
    elif flaw == "lost hash":
        pool._remembered.clear()
    else:
        pool._remembered[b"stray"] = pool.blocks[table[1]]
    with pytest.raises(PoolCorrupted):
        pool.check_integrity(tables)
