"""Which revision answers: by shares, the same for a user, and an arm that grows keeps its users."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from console.catalog.choose import pick, place
from console.rollouts.shares import with_candidate

USERS = [f"user-{number}" for number in range(10_000)]


def arms(shares: dict[str, int]) -> dict[str, str]:
    return {user: pick(shares, at=place(model="stub", caller="key", user=user)) for user in USERS}


@pytest.mark.parametrize("shares", [{"a": 90, "b": 10}, {"a": 50, "b": 50}, {"a": 60, "b": 25, "c": 15}])
def test_users_are_spread_by_shares(shares: dict[str, int]) -> None:
    counts = Counter(arms(shares).values())
    for revision, weight in shares.items():
        assert abs(100 * counts[revision] / len(USERS) - weight) <= 1.5


def test_requests_without_a_user_are_spread_by_shares() -> None:
    counts = Counter(pick({"a": 90, "b": 10}, at=place(model="stub", caller="key", user="")) for _ in USERS)
    assert abs(100 * counts["b"] / len(USERS) - 10) <= 1.5


def test_a_user_keeps_the_arm_with_one_key_and_another_key_tells_users_apart() -> None:
    shares = {"a": 50, "b": 50}
    assert arms(shares) == arms(shares)
    other = {user: pick(shares, at=place(model="stub", caller="other", user=user)) for user in USERS}
    assert other != arms(shares)


@pytest.mark.parametrize("before", [{"a": 100}, {"a": 70, "b": 30}, {"new": 5, "a": 95}])
def test_an_arm_that_grows_keeps_its_users(before: dict[str, int]) -> None:
    walk = [arms(with_candidate(before, "new", weight)) for weight in (5, 10, 50, 75, 100)]
    for earlier, later in pairwise(walk):
        kept = [user for user, revision in earlier.items() if revision == "new"]
        assert kept and all(later[user] == "new" for user in kept)


@pytest.mark.parametrize("shares", [{"a": 0, "b": 100}, {"b": 100, "a": 0}])
def test_an_arm_of_nothing_answers_nobody(shares: dict[str, int]) -> None:
    assert set(arms(shares).values()) == {"b"}
