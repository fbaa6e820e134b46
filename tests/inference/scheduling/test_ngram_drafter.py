"""What is guessed from a text's own past, and what guesses are known to be worth."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.scheduling import ngram_drafter as drafting
from inference.scheduling.ngram_drafter import FIRST_RECORDS, Drafter


def reader(token_ids: list[int]) -> Drafter:
    drafter = Drafter()
    assert drafter.read(token_ids, len(token_ids))
    return drafter


def guessed(token_ids: list[int], max_tokens: int = 4) -> list[int]:
    return reader(token_ids).drafts(max_tokens, least_chance=0.0)


def test_what_followed_before_is_guessed_to_follow_again() -> None:
    assert guessed([1, 2, 3, 4, 5, 6, 9, 1, 2, 3]) == [4, 5, 6, 9]


def test_the_longest_run_decides_and_of_its_places_the_latest() -> None:
    assert guessed([1, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3], 1) == [4]
    assert guessed([1, 2, 3, 4, 9, 1, 2, 3, 5, 1, 2, 3], 1) == [5]


def test_of_what_is_new_nothing_is_guessed() -> None:
    assert guessed([1, 2, 3, 4]) == [] == guessed([])
    assert reader([1, 2, 3]).chance() == 0.0


def test_what_repeats_itself_is_guessed_beyond_its_end() -> None:
    assert guessed([1, 2, 1, 2, 1, 2], 7) == [1, 2, 1, 2, 1, 2, 1]
    assert guessed([5, 5], 3) == [5, 5, 5]


def test_guesses_go_as_far_as_the_chance_that_all_hold() -> None:
    drafter = reader([1, 2, 3, 4, 5, 6, 9, 1, 2, 3])
    chance = drafter.chance()
    assert 0 < chance < 1
    assert len(drafter.drafts(4, least_chance=chance)) == 1
    assert len(drafter.drafts(4, least_chance=chance**3)) == 3
    assert drafter.drafts(4, least_chance=chance + 0.01) == []


def test_a_record_follows_what_came_true_although_nothing_was_computed() -> None:
    source = random.Random(0)
    few_words = [source.randrange(20) for _ in range(600)]
    drafter = reader(few_words)
    assert all(record < 0.3 for record in drafter.records)
    both = few_words + [1, 2, 3, 4, 5, 6, 7, 8] * 8
    drafter.read(both, len(both))
    assert drafter.records[2] > 0.7
    assert drafter.drafts(4, least_chance=0.3)[:1] == [1]


def test_a_wrong_guess_counts_against_the_run_that_it_came_from_alone() -> None:
    drafter = reader([1, 2, 3, 4, 1, 2, 3, 9])
    assert drafter.records[2] < FIRST_RECORDS[2]
    assert drafter.records[1] > FIRST_RECORDS[1]  # 1, 2 were followed by 3 again
    assert drafter.records[0] > FIRST_RECORDS[0]  # 1 by 2


@given(st.lists(st.integers(0, 5), max_size=60), st.lists(st.integers(1, 7), max_size=20))
def test_reading_in_portions_is_reading_at_once(token_ids: list[int], portions: list[int]) -> None:
    drafter, end = Drafter(), 0
    for portion in portions:
        end = min(len(token_ids), end + portion)
        assert drafter.read(token_ids, end)
    drafter.read(token_ids, len(token_ids))
    whole = reader(token_ids)
    assert drafter.records == whole.records
    assert drafter.drafts(9, least_chance=0.0) == whole.drafts(9, least_chance=0.0)


def test_a_long_prompt_is_read_over_several_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafting, "MAX_READ", 10)
    drafter, token_ids = Drafter(), [7, 8, 9, *range(100, 118), 7, 8, 9]
    assert [drafter.read(token_ids, len(token_ids)) for _ in range(3)] == [False, False, True]
    assert drafter.drafts(2, least_chance=0.0) == [100, 101]


def test_of_a_very_long_prompt_the_end_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafting, "MAX_TOKENS", 10)
    assert guessed([1, 2, 3, *range(10, 30), 1, 2, 3]) == []
    assert guessed([*range(10, 30), 1, 2, 3, 4, 1, 2, 3], 1) == [4]
