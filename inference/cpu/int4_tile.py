"""Products of a few rows with 4-bit weights of a block of outputs, as LLVM vectors.

A register holds a word of each of its outputs, and a word eight weights: no register is summed up in the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from inference.cpu.packing import BLOCK
from inference.cpu.vectors import (
    BYTES_AHEAD,
    FLOAT,
    INT,
    LONG,
    SHORT,
    Value,
    broadcast,
    fetch_soon,
    lanes,
)

# A word holds four weights of a group's first half in the low bits of its bytes, and as many of its second
# half in the high ones.
WORD = 8  # weights
OFFSET = 8  # what is added to a weight as it is stored
NUM_VECTORS = 2  # of outputs that a tile computes at once
LINE = 4 * BLOCK  # bytes of a word of each output
SCALES = 2 * BLOCK  # bytes of a scale of each output
CHAINS = {1: 4, 2: 2}  # by rows: sums side by side, so that none waits for the one before
PARTS = 4  # of a word, each of two weights
FUSED = ("contract",)  # and no other order of sums: it might be another for another number of rows


def int4_tile(num_rows: int, *, rounds: bool) -> Callable[..., None]:
    """A function (x, x_stride, last, w, scales, group, num_groups, out).

    out[row] = the sum over groups of scales[group] * (the sum over its inputs of x[row] * w), for NUM_VECTORS
    * lanes() outputs; out is float32 [num_rows, BLOCK]. w: address of words [num_groups * group / 8, BLOCK];
    scales: of bfloat16 [num_groups, BLOCK]. x: of rows as int4.put_int16_row leaves them, `x_stride`
    bytes from one to the next; those after `last` are not read: they count as that one.
    """

    @intrinsic
    def tile(
        typing: Any,
        x: Any,
        x_stride: Any,
        last: Any,
        w: Any,
        scales: Any,
        group: Any,
        num_groups: Any,
        out: Any,
    ) -> Any:
        return types.void(*[types.int64] * 8), generate

    def generate(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        (Int16Int4Tile if rounds else Float32Int4Tile)(builder, num_rows).emit(*args)
        return context.get_dummy_value()

    made: Callable[..., None] = tile
    return made


Sums = dict[tuple[int, int], list[Value]]  # by row and vector: places of sums within a group, added up later


class Int4Tile(ABC):
    """Writes the code of one tile."""

    number_bytes: ClassVar[int]  # of an activation
    sum_kind: ClassVar[Any]  # of a sum within a group
    num_chains = 1
    passes: Sequence[Sequence[int]]  # over a group's words: the parts that each takes of them

    def __init__(self, builder: Any, num_rows: int) -> None:
        self.builder, self.num_rows = builder, num_rows
        self.places = [(row, column) for row in range(num_rows) for column in range(NUM_VECTORS)]
        self.words = ir.VectorType(INT, lanes())
        self.sums = ir.VectorType(self.sum_kind, lanes())
        self.floats = ir.VectorType(FLOAT, lanes())

    def emit(
        self,
        x: Value,
        x_stride: Value,
        last: Value,
        w: Value,
        scales: Value,
        group: Value,
        num_groups: Value,
        out: Value,
    ) -> None:
        builder = self.builder
        rows = []
        for row in range(self.num_rows):
            own = builder.select(builder.icmp_signed("<", last, LONG(row)), last, LONG(row))
            rows.append(builder.add(x, builder.mul(x_stride, own)))
        totals = {place: self._variable(ir.Constant(self.floats, None)) for place in self.places}
        length = builder.mul(group, num_groups)
        with cgutils.for_range_slice(builder, LONG(0), length, group, LONG) as (start, index):
            first = [self._first(row, index, length) for row in rows]
            sums = self._sums_of_group(rows, first, w, start, group)
            for column in range(NUM_VECTORS):
                scale = self._scale(builder.add(scales, builder.mul(index, LONG(SCALES))), column)
                for row in range(self.num_rows):
                    total = totals[row, column]
                    product = builder.fmul(sums[row, column], scale, flags=FUSED)
                    builder.store(builder.fadd(builder.load(total), product, flags=FUSED), total)
        for (row, column), total in totals.items():
            place = builder.add(out, LONG(4 * (row * BLOCK + column * lanes())))
            builder.store(builder.load(total), builder.inttoptr(place, self.floats.as_pointer()), align=4)

    def _sums_of_group(
        self, rows: Sequence[Value], first: Sequence[Value], w: Value, start: Value, group: Value
    ) -> dict[tuple[int, int], Value]:
        """float32 sums of the group of inputs that begins with `start`, by row and vector."""
        builder, nothing = self.builder, ir.Constant(self.sums, None)
        sums = {
            (row, column): [
                self._variable(nothing if chain else first[row]) for chain in range(self.num_chains)
            ]
            for row, column in self.places
        }
        half = builder.lshr(group, LONG(1))
        words = builder.add(w, builder.mul(start, LONG(LINE // WORD)))
        for parts in self.passes:
            with cgutils.for_range_slice(builder, LONG(0), half, LONG(PARTS), LONG) as (done, _):
                line = builder.add(words, builder.mul(done, LONG(LINE // PARTS)))
                offsets = [4 * lanes() * column for column in range(NUM_VECTORS)]
                loaded = [self._load(line, offset, self.words) for offset in offsets]
                near = builder.mul(builder.add(start, done), LONG(self.number_bytes))
                far = builder.add(near, builder.mul(half, LONG(self.number_bytes)))
                for part in parts:
                    if part == 0:
                        for offset in offsets:
                            fetch_soon(builder, builder.add(line, LONG(BYTES_AHEAD + offset)))
                    self._add(sums, rows, loaded, far if part % 2 else near, part)
        return {place: self._sum_up([builder.load(one) for one in sums[place]]) for place in self.places}

    @abstractmethod
    def _first(self, row: Value, index: Value, length: Value) -> Value:
        """The initial value of the sum of a row and a group."""

    @abstractmethod
    def _add(
        self, sums: Sums, rows: Sequence[Value], words: Sequence[Value], start: Value, part: int
    ) -> None:
        """Adds two inputs, weights of 4 bits each from 4 * part on in a word's halves. `start`: bytes from a
        row's beginning to the four inputs that two parts share, the even ones or the odd ones.
        """

    @abstractmethod
    def _sum_up(self, chains: Sequence[Value]) -> Value:
        """Sums side by side as one of float32."""

    def _scale(self, address: Value, column: int) -> Value:
        builder = self.builder
        numbers = self._load(address, 2 * lanes() * column, ir.VectorType(SHORT, lanes()), align=2)
        upper = ir.Constant(self.words, [16] * lanes())
        return builder.bitcast(builder.shl(builder.zext(numbers, self.words), upper), self.floats)

    def _load(self, base: Value, offset: int, kind: Any, *, align: int = 4) -> Value:
        address = self.builder.add(base, LONG(offset))
        return self.builder.load(self.builder.inttoptr(address, kind.as_pointer()), align=align)

    def _broadcast(self, row: Value, offset: Value, kind: Any) -> Value:
        """A vector of the number of 32 bits at an address."""
        place = self.builder.inttoptr(self.builder.add(row, offset), kind.as_pointer())
        return broadcast(self.builder, self.builder.load(place, align=4))

    def _variable(self, value: Value) -> Value:
        return cgutils.alloca_once_value(self.builder, value)


class Int16Int4Tile(Int4Tile):
    """With activations of int16, multiplied and summed in pairs, as exact whole numbers.

    Weights are taken as they are stored, from 0 to 15: a row's sums begin with what that is too much.
    """

    number_bytes, sum_kind = 2, INT

    def __init__(self, builder: Any, num_rows: int) -> None:
        super().__init__(builder, num_rows)
        self.num_chains = CHAINS.get(num_rows, 1)
        # A sum that is added to twice in a pass becomes two instructions for LLVM, where `vpdpwssd` is one.
        self.passes = [range(PARTS)] if num_rows in CHAINS else [[part] for part in range(PARTS)]
        self.shorts = ir.VectorType(SHORT, 2 * lanes())
        name = f"llvm.x86.{'avx512.pmaddw.d.512' if lanes() == 16 else 'avx2.pmadd.wd'}"
        pairs = ir.FunctionType(self.sums, [self.shorts, self.shorts])
        self.multiply = cgutils.get_or_insert_function(builder.module, pairs, name)

    def _first(self, row: Value, index: Value, length: Value) -> Value:
        builder = self.builder
        numbers = builder.mul(length, LONG(self.number_bytes))
        return self._broadcast(row, builder.add(numbers, builder.mul(index, LONG(4))), INT)

    def _add(
        self, sums: Sums, rows: Sequence[Value], words: Sequence[Value], start: Value, part: int
    ) -> None:
        builder = self.builder
        weights = [self._weights(builder.bitcast(word, self.shorts), part) for word in words]
        offset = builder.add(start, LONG(2 * self.number_bytes * (part // 2)))
        for row, address in enumerate(rows):
            numbers = builder.bitcast(self._broadcast(address, offset, INT), self.shorts)
            for column, weight in enumerate(weights):
                place = sums[row, column][part % self.num_chains]
                product = builder.call(self.multiply, [numbers, weight])
                builder.store(builder.add(builder.load(place), product), place)

    def _weights(self, stored: Value, part: int) -> Value:
        builder, count = self.builder, 2 * lanes()
        if part:
            stored = builder.lshr(stored, ir.Constant(self.shorts, [4 * part] * count))
        is_alone = part == PARTS - 1
        return stored if is_alone else builder.and_(stored, ir.Constant(self.shorts, [15] * count))

    def _sum_up(self, chains: Sequence[Value]) -> Value:
        total = chains[0]
        for chain in chains[1:]:
            total = self.builder.add(total, chain)
        return self.builder.sitofp(total, self.floats)


class Float32Int4Tile(Int4Tile):
    """With activations of float32, as they are."""

    number_bytes, sum_kind, passes = 4, FLOAT, (range(PARTS),)

    def _first(self, row: Value, index: Value, length: Value) -> Value:
        return ir.Constant(self.sums, None)

    def _add(
        self, sums: Sums, rows: Sequence[Value], words: Sequence[Value], start: Value, part: int
    ) -> None:
        for half in range(2):  # of a word
            offset = self.builder.add(start, LONG(self.number_bytes * (part // 2 + 2 * half)))
            weights = [self._weights(word, 16 * half + 4 * part) for word in words]
            for row, address in enumerate(rows):
                number = self._broadcast(address, offset, FLOAT)
                for column, weight in enumerate(weights):
                    (place,) = sums[row, column]
                    product = self.builder.fmul(number, weight, flags=FUSED)
                    self.builder.store(
                        self.builder.fadd(self.builder.load(place), product, flags=FUSED), place
                    )

    def _weights(self, word: Value, first_bit: int) -> Value:
        builder, count = self.builder, lanes()
        shift, ones, offset = (
            ir.Constant(self.words, [number] * count) for number in (first_bit, 15, OFFSET)
        )
        stored = builder.and_(builder.lshr(word, shift), ones)
        return builder.sitofp(builder.sub(stored, offset), self.floats)

    def _sum_up(self, chains: Sequence[Value]) -> Value:
        return chains[0]
