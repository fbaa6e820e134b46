"""Dot products of a few rows with a few others as LLVM vectors, where the CPU spends nearly all its time.

`tile` and `weighted_sum` make functions that compiled code can call. Their shape is fixed when they are made,
so that all sums stay in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

Kind = Literal["float32", "float32_int8", "int16_int8"]  # float32 x float32, float32 x int8, int16 x int8

FLOAT, BYTE, SHORT, INT, LONG = ir.FloatType(), ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)
FLAGS = ("reassoc", "contract")  # NaN and infinity stay what they are
COLUMNS_AHEAD = 8  # of int8 weights to prefetch: twice as fast as the CPU's own prefetcher
BYTES_AHEAD = 2048  # of packed weights to prefetch
VECTORS = 4  # of each row that `weighted_sum` keeps in registers

Value = Any  # of LLVM; llvmlite has no types


@lru_cache(maxsize=1)
def lanes() -> int:
    """float32 numbers in a register of this CPU."""
    features = binding.get_host_cpu_features()
    return next((size for name, size in (("avx512bw", 16), ("avx2", 8)) if features.get(name)), 4)


@lru_cache(maxsize=1)
def has_int16_products() -> bool:
    """True where one instruction multiplies int16 and sums the products in pairs (AVX2 and later)."""
    return lanes() > 4


def tile(kind: Kind, num_rows: int, num_columns: int) -> Callable[..., None]:
    """A function (x, x_stride, w, w_stride, length, out): out[row, column] = sum of x[row] * w[column].

    x, w and out are addresses, strides bytes from row to row. `length` numbers of each row are summed, and a
    multiple of `step_of(kind)`: nothing is read past them. out is float32 [num_rows, num_columns].
    """

    @intrinsic
    def dots(typing: Any, x: Any, x_stride: Any, w: Any, w_stride: Any, length: Any, out: Any) -> Any:
        return types.void(*[types.int64] * 6), generate

    def generate(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        Tile(builder, kind, num_rows, num_columns).emit(*args)
        return context.get_dummy_value()

    made: Callable[..., None] = dots
    return made


def step_of(kind: Kind) -> int:
    """Numbers of a row that a tile takes at once."""
    return lanes() * (2 if kind == "int16_int8" else 1)


class Tile:
    """Writes the code of one tile."""

    def __init__(self, builder: Any, kind: Kind, num_rows: int, num_columns: int) -> None:
        self.builder, self.kind = builder, kind
        self.num_rows, self.num_columns = num_rows, num_columns
        self.step = step_of(kind)
        self.sum_type = ir.VectorType(INT if kind == "int16_int8" else FLOAT, lanes())

    def emit(self, x: Value, x_stride: Value, w: Value, w_stride: Value, length: Value, out: Value) -> None:
        builder = self.builder
        sums = [
            cgutils.alloca_once_value(builder, ir.Constant(self.sum_type, None))
            for _ in range(self.num_rows * self.num_columns)
        ]
        with cgutils.for_range_slice(builder, LONG(0), length, LONG(self.step), LONG) as (done, _):
            rows = [self._activations(x, x_stride, row, done) for row in range(self.num_rows)]
            for column in range(self.num_columns):
                weights = self._weights(w, w_stride, column, done)
                for row, numbers in enumerate(rows):
                    place = sums[row * self.num_columns + column]
                    builder.store(self._added(builder.load(place), numbers, weights), place)
        totals = [self._as_float(builder.load(place)) for place in sums]
        self._store(horizontal_sums(builder, totals), out)

    def _activations(self, x: Value, stride: Value, row: int, done: Value) -> Value:
        kind, width = (SHORT, 2) if self.kind == "int16_int8" else (FLOAT, 4)
        return self._load(x, stride, row, self.builder.mul(done, LONG(width)), kind)

    def _weights(self, w: Value, stride: Value, column: int, done: Value) -> Value:
        if self.kind == "float32":
            return self._load(w, stride, column, self.builder.mul(done, LONG(4)), FLOAT)
        numbers = self._load(w, stride, column, done, BYTE)
        ahead = self.builder.mul(stride, LONG(column + COLUMNS_AHEAD))
        fetch_soon(self.builder, self.builder.add(w, self.builder.add(ahead, done)))
        if self.kind == "int16_int8":
            return self.builder.sext(numbers, ir.VectorType(SHORT, self.step))
        wide = self.builder.sext(numbers, ir.VectorType(INT, self.step))
        return self.builder.sitofp(wide, ir.VectorType(FLOAT, self.step))

    def _load(self, base: Value, stride: Value, index: int, offset: Value, kind: Any) -> Value:
        builder = self.builder
        address = builder.add(builder.add(base, builder.mul(stride, LONG(index))), offset)
        pointer = builder.inttoptr(address, ir.VectorType(kind, self.step).as_pointer())
        return builder.load(pointer, align=1)

    def _added(self, total: Value, numbers: Value, weights: Value) -> Value:
        builder = self.builder
        if self.kind == "int16_int8":
            name = f"llvm.x86.{'avx512.pmaddw.d.512' if lanes() == 16 else 'avx2.pmadd.wd'}"
            pairs = ir.FunctionType(self.sum_type, [numbers.type, numbers.type])
            multiply = cgutils.get_or_insert_function(builder.module, pairs, name)
            return builder.add(total, builder.call(multiply, [numbers, weights]))
        product = builder.fmul(numbers, weights, flags=FLAGS)
        return builder.fadd(total, product, flags=FLAGS)

    def _as_float(self, total: Value) -> Value:
        return (
            self.builder.sitofp(total, ir.VectorType(FLOAT, lanes())) if self.kind == "int16_int8" else total
        )

    def _store(self, vectors: Sequence[Value], out: Value) -> None:
        builder, left = self.builder, self.num_rows * self.num_columns
        for index, vector in enumerate(vectors):
            count = min(lanes(), left - index * lanes())
            part = shuffled(builder, vector, vector, list(range(count)))
            place = builder.add(out, LONG(index * lanes() * 4))
            builder.store(part, builder.inttoptr(place, part.type.as_pointer()), align=4)


def block_of(num_columns: int, num_rows: int) -> Callable[..., None]:
    """A function (x, x_stride, last, w, length, out): out[row] = the sum of x[row][k] * w[k].

    w is the address of bfloat16 [length, num_columns], out of float32 [num_rows, num_columns], x of float32
    rows, `x_stride` bytes from one to the next. Rows after `last` are not read: they count as that one.
    """

    @intrinsic
    def block(typing: Any, x: Any, x_stride: Any, last: Any, w: Any, length: Any, out: Any) -> Any:
        return types.void(*[types.int64] * 6), generate

    def generate(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        _emit_block(builder, num_columns // lanes(), num_rows, *args)
        return context.get_dummy_value()

    made: Callable[..., None] = block
    return made


def _emit_block(
    builder: Any,
    num_vectors: int,
    num_rows: int,
    x: Value,
    x_stride: Value,
    last: Value,
    w: Value,
    length: Value,
    out: Value,
) -> None:
    size = lanes()
    vector, whole = ir.VectorType(FLOAT, size), ir.VectorType(INT, size)
    halves = ir.VectorType(SHORT, size).as_pointer()
    rows = []
    for row in range(num_rows):
        own = builder.select(builder.icmp_signed("<", last, LONG(row)), last, LONG(row))
        rows.append(builder.add(x, builder.mul(x_stride, own)))
    nothing = ir.Constant(vector, None)
    sums = [[cgutils.alloca_once_value(builder, nothing) for _ in range(num_vectors)] for _ in rows]
    upper = ir.Constant(whole, [16] * size)
    with cgutils.for_range_slice(builder, LONG(0), length, LONG(1), LONG) as (done, _):
        line = builder.add(w, builder.mul(done, LONG(2 * size * num_vectors)))
        fetch_soon(builder, builder.add(line, LONG(BYTES_AHEAD)))
        weights = []
        for index in range(num_vectors):
            place = builder.inttoptr(builder.add(line, LONG(2 * size * index)), halves)
            numbers = builder.zext(builder.load(place, align=2), whole)
            weights.append(builder.bitcast(builder.shl(numbers, upper), vector))
        for row, totals in zip(rows, sums, strict=True):
            place = builder.inttoptr(builder.add(row, builder.mul(done, LONG(4))), FLOAT.as_pointer())
            number = broadcast(builder, builder.load(place, align=4))
            for total, weight in zip(totals, weights, strict=True):
                product = builder.fmul(number, weight, flags=FLAGS)
                builder.store(builder.fadd(builder.load(total), product, flags=FLAGS), total)
    for index, total in enumerate(total for totals in sums for total in totals):
        place = builder.add(out, LONG(4 * size * index))
        builder.store(builder.load(total), builder.inttoptr(place, vector.as_pointer()), align=4)


def weighted_sum(num_rows: int) -> Callable[..., None]:
    """A function (shares, share_stride, values, value_stride, count, out, out_stride).

    out[row] += sum over `count` of shares[row][i] * values[i]: VECTORS * lanes() float32 numbers of each row.
    All are addresses, and strides in bytes.
    """

    @intrinsic
    def sums(
        typing: Any,
        shares: Any,
        share_stride: Any,
        values: Any,
        value_stride: Any,
        count: Any,
        out: Any,
        stride: Any,
    ) -> Any:
        return types.void(*[types.int64] * 7), generate

    def generate(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        _emit_sums(builder, num_rows, *args)
        return context.get_dummy_value()

    made: Callable[..., None] = sums
    return made


def _emit_sums(
    builder: Any,
    num_rows: int,
    shares: Value,
    share_stride: Value,
    values: Value,
    value_stride: Value,
    count: Value,
    out: Value,
    stride: Value,
) -> None:
    vector = ir.VectorType(FLOAT, lanes())

    def at(base: Value, offset: Value, index: int, kind: Any) -> Value:
        address = builder.add(builder.add(base, offset), LONG(4 * lanes() * index))
        return builder.inttoptr(address, kind.as_pointer())

    places = [(row, index) for row in range(num_rows) for index in range(VECTORS)]
    targets = {(row, index): at(out, builder.mul(stride, LONG(row)), index, vector) for row, index in places}
    totals = {
        place: cgutils.alloca_once_value(builder, builder.load(targets[place], align=4)) for place in places
    }
    with cgutils.for_range_slice(builder, LONG(0), count, LONG(1), LONG) as (done, _):
        start = builder.mul(value_stride, done)
        numbers = [builder.load(at(values, start, index, vector), align=4) for index in range(VECTORS)]
        for row in range(num_rows):
            offset = builder.add(builder.mul(share_stride, LONG(row)), builder.mul(done, LONG(4)))
            share = builder.load(at(shares, offset, 0, FLOAT), align=4)
            wide = broadcast(builder, share)
            for index, number in enumerate(numbers):
                place = totals[row, index]
                product = builder.fmul(wide, number, flags=FLAGS)
                builder.store(builder.fadd(builder.load(place), product, flags=FLAGS), place)
    for position in places:
        builder.store(builder.load(totals[position]), targets[position], align=4)


@intrinsic
def prefetch(typing: Any, address: Any) -> Any:
    """Has the CPU fetch the line of memory at an address, which may be anything."""

    def generate(context: Any, builder: Any, signature: Any, args: Sequence[Value]) -> Value:
        fetch_soon(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), generate


def fetch_soon(builder: Any, address: Value) -> None:
    """The instruction of `prefetch`."""
    place = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [place, INT, INT, INT])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [builder.inttoptr(address, place), INT(0), INT(3), INT(1)])


def horizontal_sums(builder: Any, vectors: Sequence[Value]) -> list[Value]:
    """The sum of each vector's lanes: as many numbers as there were vectors, in order, in fewer vectors."""
    level, size = list(vectors), lanes()
    nothing = ir.Constant(ir.VectorType(FLOAT, size), None)
    segment = size  # lanes that still belong to one of the sums
    while segment > 1:
        half = segment // 2
        if len(level) % 2:
            level.append(nothing)
        starts = range(0, 2 * size, segment)
        low = [start + lane for start in starts for lane in range(half)]
        high = [start + half + lane for start in starts for lane in range(half)]
        level = [
            builder.fadd(shuffled(builder, a, b, low), shuffled(builder, a, b, high), flags=FLAGS)
            for a, b in zip(level[::2], level[1::2], strict=True)
        ]
        segment = half
    return level


def broadcast(builder: Any, number: Value) -> Value:
    """A vector of one number of 32 bits."""
    single = builder.insert_element(
        ir.Constant(ir.VectorType(number.type, lanes()), ir.Undefined), number, INT(0)
    )
    return shuffled(builder, single, single, [0] * lanes())


def shuffled(builder: Any, first: Value, second: Value, order: Sequence[int]) -> Value:
    """The numbers of two vectors, in an order."""
    mask = ir.Constant(ir.VectorType(INT, len(order)), list(order))
    return builder.shuffle_vector(first, second, mask)
