"""All layers of a step in one call of compiled code, by as many threads as there are.

A layer is ten phases. Free threads take a phase's shares; the next phase begins when all are done.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from inference.cpu import attention
from inference.cpu.atomics import copy, floats, longs
from inference.cpu.attention import attend, combine_parts
from inference.cpu.matmul import multiply_all, put_row
from inference.cpu.rows import gate, normalize, rotate
from inference.cpu.thread_pool import finish, next_share

LAYER = np.dtype(
    [
        ("input_norm", np.int64),  # addresses of float32 weights [width]
        ("post_norm", np.int64),
        ("query_norm", np.int64),  # [head_dim]; 0 where the family has none
        ("key_norm", np.int64),
        ("keys", np.int64),  # addresses of the layer's pool, float32 [slots, num_kv_heads, head_dim]
        ("values", np.int64),
        ("window", np.int64),  # positions that a token sees, itself included; 0: all
        ("input_epsilon", np.float64),
        ("post_epsilon", np.float64),
        ("head_epsilon", np.float64),
        ("scaling", np.float64),
    ]
)
QKV, OUT, GATE_UP, DOWN = range(4)  # the products of a layer
ADDING = (OUT, DOWN)  # to the residual
NUM_PHASES = 10  # of a layer

JOB = np.dtype(
    [
        ("x", np.int64),  # address of float32 [num_tokens, width]: embeddings, in the end for the last norm
        ("cos", np.int64),  # address of float32 [num_tokens, head_dim]
        ("sin", np.int64),
        ("slots", np.int64),  # address of int64 [num_tokens], rows of the pool
        ("num_tokens", np.int64),
        ("num_threads", np.int64),
        ("rows", np.int64),  # addresses of room: for rows as products take them,
        ("scales", np.int64),  # float32 [num_tokens],
        ("projected", np.int64),  # float32 [num_tokens, the most outputs of qkv and gate_up],
        ("attended", np.int64),  # float32 [num_tokens, num_heads * head_dim],
        ("scratch", np.int64),  # and for each thread alone
        ("scratch_bytes", np.int64),
    ]
)


@njit(nogil=True, cache=True)
def run(counters, thread, jobs, all_heads, layers, all_products, sequences):
    """One thread's part of a step. `jobs` and `all_heads` hold one record, `all_products` four a layer."""
    job, heads = jobs[0], all_heads[0]
    scratch = job.scratch + thread * job.scratch_bytes
    for index in range(len(layers)):
        layer, phase = layers[index], index * NUM_PHASES
        qkv, o = all_products[index, QKV], all_products[index, OUT]
        gate_up, down = all_products[index, GATE_UP], all_products[index, DOWN]
        _norm(counters, phase, job, layer.input_norm, layer.input_epsilon, qkv, scratch)
        _multiply(counters, phase + 1, job, qkv, job.projected, scratch)
        _place_heads(counters, phase + 2, job, heads, layer, qkv.num_outputs)
        _attend(counters, phase + 3, job, heads, layer, sequences, qkv.num_outputs, scratch)
        _combine_parts(counters, phase + 4, job, heads, sequences, o)
        _multiply(counters, phase + 5, job, o, job.x, scratch)
        _norm(counters, phase + 6, job, layer.post_norm, layer.post_epsilon, gate_up, scratch)
        _multiply(counters, phase + 7, job, gate_up, job.projected, scratch)
        _gate(counters, phase + 8, job, gate_up, down, scratch)
        _multiply(counters, phase + 9, job, down, job.x, scratch)


@njit
def _norm(counters, phase, job, weight, epsilon, product, scratch):
    width = product.num_inputs
    row = next_share(counters, phase, job.num_tokens)
    while row >= 0:
        normed = floats(scratch, width)
        normalize(floats(job.x + 4 * row * width, width), floats(weight, width), epsilon, normed)
        put_row(normed, product, job.rows, job.scales, row)
        finish(counters, phase)
        row = next_share(counters, phase, job.num_tokens)


@njit
def _combine_parts(counters, phase, job, heads, sequences, product):
    width = product.num_inputs
    row, index = next_share(counters, phase, job.num_tokens), 0
    while row >= 0:
        while index + 1 < len(sequences) and sequences[index + 1].offset <= row:
            index += 1
        sequence, attended = sequences[index], job.attended + 4 * row * width
        combine_parts(sequence, row - sequence.offset, heads, attended)
        put_row(floats(attended, width), product, job.rows, job.scales, row)
        finish(counters, phase)
        row = next_share(counters, phase, job.num_tokens)


@njit
def _gate(counters, phase, job, gate_up, down, scratch):
    row = next_share(counters, phase, job.num_tokens)
    while row >= 0:
        states = floats(job.projected + 4 * row * gate_up.num_outputs, gate_up.num_outputs)
        gated = floats(scratch, down.num_inputs)
        gate(states, gated)
        put_row(gated, down, job.rows, job.scales, row)
        finish(counters, phase)
        row = next_share(counters, phase, job.num_tokens)


@njit
def _multiply(counters, phase, job, product, out, scratch):
    rows, scales = job.rows, job.scales
    multiply_all(counters, phase, product, rows, scales, job.num_tokens, job.num_threads, out, scratch)


@njit
def _place_heads(counters, phase, job, heads, layer, stride):
    """Rotates queries and keys, and puts keys and values where the pool wants them."""
    dim = heads.head_dim
    num_rotated = heads.num_heads + heads.num_kv_heads
    slots = longs(job.slots, job.num_tokens)
    row = next_share(counters, phase, job.num_tokens)
    while row >= 0:
        cos, sin = floats(job.cos + 4 * row * dim, dim), floats(job.sin + 4 * row * dim, dim)
        start = job.projected + 4 * row * stride
        for index in range(num_rotated):
            head = floats(start + 4 * index * dim, dim)
            norm = layer.query_norm if index < heads.num_heads else layer.key_norm
            if norm:
                normalize(head, floats(norm, dim), layer.head_epsilon, head)
            rotate(head, cos, sin)
        size = heads.num_kv_heads * dim
        place = 4 * slots[row] * size
        copy(floats(start + 4 * heads.num_heads * dim, size), floats(layer.keys + place, size))
        copy(floats(start + 4 * num_rotated * dim, size), floats(layer.values + place, size))
        finish(counters, phase)
        row = next_share(counters, phase, job.num_tokens)


@njit
def _attend(counters, phase, job, heads, layer, sequences, stride, scratch):
    last = sequences[len(sequences) - 1]
    count = last.first_share + attention.num_shares(last, heads)
    share = next_share(counters, phase, count)
    index = 0
    while share >= 0:
        while index + 1 < len(sequences) and sequences[index + 1].first_share <= share:
            index += 1
        sequence = sequences[index]
        attend(
            sequence, share - sequence.first_share, heads, layer.keys, layer.values, layer.scaling,
            layer.window, job.projected, stride, job.attended, scratch,
        )  # fmt: skip
        finish(counters, phase)
        share = next_share(counters, phase, count)
