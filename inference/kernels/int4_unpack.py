"""How two numbers of four bits lie in a byte, and how Triton programs take them out.

A group of inputs of one output takes half as many bytes: its first half in the low bits, its second half in
the high ones, so that either half unpacks to a tile of its own. Stored is the number plus 8, from 0 to 15.
"""

from __future__ import annotations

import triton
import triton.language as tl

# A register of four bytes becomes two of low and two of high numbers, as pairs of 16-bit floats: the four
# bits go below those of a power of two whose last place is 1; it and the added 8 are then subtracted.
_UNPACK = """{
.reg .b32 a, b, c, d, one, offset;
mov.b32 one, ONE;
mov.b32 offset, OFFSET;
prmt.b32 a, $4, 0, 0x4140;
prmt.b32 b, $4, 0, 0x4342;
shr.u32 c, a, 4;
shr.u32 d, b, 4;
lop3.b32 a, a, 0x000F000F, POWER, 0xEA;
lop3.b32 b, b, 0x000F000F, POWER, 0xEA;
lop3.b32 c, c, 0x000F000F, POWER, 0xEA;
lop3.b32 d, d, 0x000F000F, POWER, 0xEA;
fma.rn.PAIR $0, a, one, offset;
fma.rn.PAIR $1, b, one, offset;
fma.rn.PAIR $2, c, one, offset;
fma.rn.PAIR $3, d, one, offset;
}"""


def _unpacking(pair: str, power: int, one: int, offset: int) -> tl.constexpr:
    """The instructions for one float type; the numbers are its bits."""
    text = _UNPACK.replace("PAIR", pair)
    for name, bits in (("POWER", power), ("ONE", one), ("OFFSET", offset)):
        text = text.replace(name, f"0x{bits:04X}{bits:04X}")
    return tl.constexpr(text)


_TO_BFLOAT16 = _unpacking("bf16x2", 0x4300, 0x3F80, 0xC308)  # 128, 1, -136
_TO_FLOAT16 = _unpacking("f16x2", 0x6400, 0x3C00, 0xE408)  # 1024, 1, -1032
_REGISTERS = tl.constexpr("=r,=r,=r,=r,r")


@triton.jit
def unpack(packed, DTYPE: tl.constexpr, FAST: tl.constexpr):
    """Bytes to their low and their high numbers, from -8 to 7. FAST: by a GPU's instructions, to 16 bits."""
    IS_BFLOAT16: tl.constexpr = tl.bfloat16 == DTYPE
    IS_FLOAT16: tl.constexpr = tl.float16 == DTYPE
    if FAST and IS_BFLOAT16:
        low, high = tl.inline_asm_elementwise(
            _TO_BFLOAT16, _REGISTERS, [packed], dtype=(tl.bfloat16, tl.bfloat16), is_pure=True, pack=4
        )
    elif FAST and IS_FLOAT16:
        low, high = tl.inline_asm_elementwise(
            _TO_FLOAT16, _REGISTERS, [packed], dtype=(tl.float16, tl.float16), is_pure=True, pack=4
        )
    else:
        low = ((packed & 15).to(tl.int32) - 8).to(DTYPE)
        high = ((packed >> 4).to(tl.int32) - 8).to(DTYPE)
    return low, high
