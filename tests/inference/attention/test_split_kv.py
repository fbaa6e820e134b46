"""The cut of a decode batch: every key once, no more items than promised, no part much longer than others."""

from __future__ import annotations

import numpy as np
import pytest

from inference.attention.base import IntArray
from inference.attention.split_kv import TILE, Cut

H200 = Cut(num_kv_heads=8, num_multiprocessors=132, max_keys=32768)
FIXED = Cut(num_kv_heads=8, num_multiprocessors=132, max_keys=32768, fixed=512)


def batches() -> list[IntArray]:
    random = np.random.default_rng()
    lengths = [random.integers(1, 32768, size) for size in (1, 2, 7, 32, 256)]
    uneven = np.array([32768, *[1] * 255])
    return [*lengths, uneven, np.ones(64, dtype=np.int64), np.full(256, 640), np.array([1])]


@pytest.mark.parametrize("cut", [H200, FIXED])
def test_every_part_of_every_sequence_is_one_item_and_has_a_place_of_its_own(cut: Cut) -> None:
    for lens in batches():
        items, parts = cut.items(lens)
        assert len(items) == cut.num_items(len(lens))
        used = items[items[:, 2] > 0]
        expected = {(i, part, n, first + part) for i, (first, n) in enumerate(parts) for part in range(n)}
        assert {tuple(item) for item in used.tolist()} == expected
        assert len(used) == len(expected) == parts[:, 1].sum()
        assert sorted(used[:, 3].tolist()) == list(range(len(used)))


def test_work_is_even_and_the_longest_comes_first() -> None:
    for lens in batches():
        items, _ = H200.items(lens)
        used = items[items[:, 2] > 0]
        sizes = lens[used[:, 0]] / used[:, 2]
        assert (np.diff(sizes) <= 0).all()
        num_extra = H200.num_items(len(lens)) - len(lens)
        assert sizes.max() <= max(TILE, -(-lens.sum() // (num_extra * TILE)) * TILE)


def test_a_long_sequence_among_short_ones_is_shared_by_many() -> None:
    _, parts = H200.items(np.array([32768, *[64] * 127]))
    assert parts[0, 1] >= 32
    assert (parts[1:, 1] == 1).all()


def test_equal_lengths_of_a_large_batch_are_not_cut() -> None:
    _, parts = H200.items(np.full(256, 640))
    assert (parts[:, 1] == 1).all()


def test_a_fixed_cut_does_not_depend_on_the_company() -> None:
    alone, company = FIXED.items(np.array([1700])), FIXED.items(np.array([5, 1700, 32768]))
    assert alone[1][0, 1] == company[1][1, 1] == 4
