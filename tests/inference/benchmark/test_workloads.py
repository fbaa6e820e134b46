"""The request lists are the ones that peers were measured on, to the token."""

from __future__ import annotations

from hashlib import sha256

import pytest

from inference.benchmark.workloads import WORKLOADS, Item, copied, fixed, mixed, shared_prefix, uniform


def fingerprint(items: list[Item]) -> str:
    return sha256(repr([(item.prompt, item.num_output_tokens) for item in items]).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (mixed(4), "174ebf75954f2df4"),
        (fixed(2, 4, 3), "507179043b6c2f4c"),
        (uniform(3), "cded440f41d4397b"),
        (shared_prefix(2, 2), "4ec00ba12e51b16d"),
    ],
    ids=["mixed", "fixed", "uniform", "shared_prefix"],
)
def test_list_is_the_one_of_every_other_run(items: list[Item], expected: str) -> None:
    assert fingerprint(items) == expected


@pytest.mark.parametrize("name", WORKLOADS)
def test_no_list_leaves_the_vocabulary(name: str) -> None:
    items = WORKLOADS[name](500)
    assert items
    assert all(0 <= token < 500 for item in items for token in item.prompt)


def test_copied_prompts_say_one_passage_over_and_over_and_differ_in_where_they_begin() -> None:
    items = copied(8)
    for item in items:
        assert len(item.prompt) == 256
        assert item.prompt[64:] == item.prompt[:-64]
    assert len({item.prompt[0] for item in items}) == 8
