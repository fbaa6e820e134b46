"""What compiled code does with memory that is known by its address, and with the bits of a float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from inference.cpu.compiler import set_cache_folder

set_cache_folder()  # here, as every module of compiled functions imports this one first

FASTMATH = {"reassoc", "contract", "arcp", "nsz"}  # NaN and infinity stay what they are

DIVIDES = (
    "numpy"  # the error model whose loops become vectors: Python's own looks out for zeros at each division
)

INT = ir.IntType(32)
LONG = ir.IntType(64)

MAGNITUDE = np.int32(0x7FFFFFFF)  # of a float32's bits, all but the sign
INFINITE = np.int32(0x7F800000)  # the bits of infinity; those of a NaN are more

LOG2_E = np.float32(1.4426950408889634)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
WHOLE = np.float32(12582912.0)  # added to a float32, it leaves whole numbers in the lowest bits
LEAST, MOST = np.float32(-87.0), np.float32(88.0)  # whose exponentials float32 holds
ONE, HALF = np.float32(1.0), np.float32(0.5)
C3, C4, C5, C6 = np.float32(1 / 6), np.float32(1 / 24), np.float32(1 / 120), np.float32(1 / 720)


def _pointer(element: Any) -> Any:
    """A function (address) -> pointer to numbers of a type."""

    @intrinsic
    def cast(typing: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Sequence[Any]) -> Any:
            return builder.inttoptr(args[0], context.get_value_type(types.CPointer(element)))

        return types.CPointer(element)(types.int64), generate

    return cast


_float_pointer, _short_pointer = _pointer(types.float32), _pointer(types.int16)
_byte_pointer, _int_pointer = _pointer(types.int8), _pointer(types.int32)
_long_pointer = _pointer(types.int64)


@njit
def floats(address, count):
    return carray(_float_pointer(address), (count,))


@njit
def shorts(address, count):
    return carray(_short_pointer(address), (count,))


@njit
def bytes_at(address, count):
    return carray(_byte_pointer(address), (count,))


@njit
def ints(address, count):
    return carray(_int_pointer(address), (count,))


@njit
def longs(address, count):
    return carray(_long_pointer(address), (count,))


@njit
def fill(numbers, number):
    """As `numbers[:] = number`, which takes numba seconds to compile."""
    for i in range(len(numbers)):
        numbers[i] = number


@njit
def copy(source, target):
    """As `target[:] = source`, likewise."""
    for i in range(len(target)):
        target[i] = source[i]


@intrinsic
def bits(typing: Any, number: Any) -> Any:
    """float32 -> the int32 of the same bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Sequence[Any]) -> Any:
        return builder.bitcast(args[0], INT)

    return types.int32(types.float32), generate


@intrinsic
def from_bits(typing: Any, number: Any) -> Any:
    """int32 -> the float32 of the same bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Sequence[Any]) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def add_atomically(typing: Any, address: Any, number: Any) -> Any:
    """Adds to the int64 at an address what no other thread can come between; what was there before."""

    def generate(context: Any, builder: Any, signature: Any, args: Sequence[Any]) -> Any:
        place = builder.inttoptr(args[0], LONG.as_pointer())
        return builder.atomic_rmw("add", place, args[1], "acq_rel")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def read_atomically(typing: Any, address: Any) -> Any:
    """The int64 at an address, and all that was written by others before they wrote it."""

    def generate(context: Any, builder: Any, signature: Any, args: Sequence[Any]) -> Any:
        place = builder.inttoptr(args[0], LONG.as_pointer())
        return builder.load_atomic(place, "acquire", 8)

    return types.int64(types.int64), generate


@njit(fastmath={"contract"})
def exponential(x):
    """e to the power of a float32, which is kept within what float32 holds; a loop of it becomes vectors."""
    x = LEAST if x < LEAST else x  # a NaN stays one
    x = MOST if x > MOST else x
    shifted = x * LOG2_E + WHOLE
    power = shifted - WHOLE
    rest = x - power * LN2_HIGH - power * LN2_LOW
    series = C5 + rest * C6
    series = C4 + rest * series
    series = C3 + rest * series
    series = HALF + rest * series
    series = ONE + rest * series
    series = ONE + rest * series
    return from_bits(np.int32(bits(series) + (bits(shifted) << np.int32(23))))
