"""Random numbers that depend on a request's seed and the token's position, and on nothing else."""

from __future__ import annotations

MASK = 2**64 - 1


def uniform(*, seed: int, position: int) -> float:
    """A number in [0, 1), in steps of 2**-32: the same in any batch, on any device, after a preemption."""
    return (_mix(_mix(seed & MASK) + position) >> 32) / 2**32


def _mix(state: int) -> int:
    """The finalizer of SplitMix64: every bit of the input reaches every bit of the output."""
    state = (state + 0x9E3779B97F4A7C15) & MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)
