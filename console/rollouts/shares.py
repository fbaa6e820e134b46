"""What a route's shares become while a candidate takes its part: whole percents that sum to 100."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from console.rollouts.state_machine import ALL

Shares = dict[str, int]
Pairs = list[list[object]]  # a JSON object would lose its order in PostgreSQL, and arms have one


def answering(shares: Mapping[str, int]) -> Shares:
    """Without arms that get nothing."""
    return {revision: weight for revision, weight in shares.items() if weight}


def with_candidate(before: Mapping[str, int], candidate: str, weight: int) -> Shares:
    """`before`, shrunk to make room for the candidate's `weight`; every other arm stays, if only with 0.

    Arms keep their order and shrink in proportion, so that the candidate's stretch of users only grows
    (see choose.py).
    """
    others = {revision: share for revision, share in before.items() if revision != candidate}
    shrunk = _divided(ALL - weight, others)
    if candidate not in before:
        return shrunk | {candidate: weight}
    return {revision: shrunk.get(revision, weight) for revision in before}


def _divided(total: int, parts: Mapping[str, int]) -> Shares:
    """`total` in whole numbers, in proportion to `parts`: the largest remainders are rounded up."""
    whole = sum(parts.values())
    exact = {name: total * part / whole for name, part in parts.items()}
    divided = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(parts, key=lambda name: divided[name] - exact[name])
    for name in by_remainder[: total - sum(divided.values())]:
        divided[name] += 1
    return divided


def to_pairs(shares: Mapping[str, int]) -> Pairs:
    return [[revision, weight] for revision, weight in shares.items()]


def from_pairs(pairs: Sequence[Sequence[object]]) -> Shares:
    return {str(revision): int(str(weight)) for revision, weight in pairs}
