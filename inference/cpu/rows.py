"""What a decoder layer does to each row of activations on its own."""

from __future__ import annotations

import numpy as np
from numba import njit

from inference.cpu.atomics import DIVIDES, FASTMATH, ONE, exponential


@njit(fastmath=FASTMATH)
def normalize(x, weight, epsilon, out):
    """RMS norm of float32 [width]; `out` may be x."""
    total = np.float32(0.0)
    for i in range(len(x)):
        total += x[i] * x[i]
    factor = ONE / np.sqrt(total / np.float32(len(x)) + np.float32(epsilon))
    for i in range(len(x)):
        out[i] = x[i] * factor * weight[i]


@njit(fastmath=FASTMATH, error_model=DIVIDES)
def gate(states, out):
    """silu(gate) * up of float32 [2 * len(out)], to `out`."""
    gates, ups = states[: len(out)], states[len(out) :]
    for i in range(len(out)):
        out[i] = gates[i] / (ONE + exponential(-gates[i])) * ups[i]


@njit(fastmath=FASTMATH)
def rotate(head, cos, sin):
    """The rotary embedding of float32 [head_dim], in place; of cos and sin the first half is read."""
    half = len(head) // 2
    for i in range(half):
        first, second = head[i], head[half + i]
        head[i] = first * cos[i] - second * sin[i]
        head[half + i] = second * cos[i] + first * sin[i]
