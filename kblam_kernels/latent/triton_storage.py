"""Tiles of stored latents in matrix products (Triton): read as they are stored, multiplied in the query's dtype.

float16, bfloat16 and int8 are converted on the chip; fp8 (e4m3) arrives as its bits, uint8, and reads as 1/256 of the
number, on sm_80 too, whose compiler has no e4m3. Scales of triples are never applied to a tile: the key's goes into the
score, the value's into the weight.

Two ways to hold a row tile's absorbed query and its sums: resident, as tuples of chunks on the chip, and streamed,
chunk by chunk from memory.
"""

# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

import triton
import triton.language as tl

from kblam_kernels.common.triton_parts import INTERPRETED, product
from kblam_kernels.common.triton_split import gather_rows, load_tile


@triton.jit
def as_numbers(tile, dtype: tl.constexpr):
    """Stored latents in `dtype`. int8 is exact in all of them, and so is fp8, as 1/256 of its numbers."""
    if tile.dtype == tl.uint8:
        # e4m3 is sign, 4 bits of exponent, 3 of mantissa; float16 has 5 and 10, and a bias of 15 for 7. With the bits
        # moved to their places the number is 2^-8 of what it was, subnormal numbers too. As a signed number the sign
        # moves along; it leaves a copy of itself in the exponent's first bit, which is cleared.
        bits = (tile.to(tl.int8, bitcast=True).to(tl.int16) << 7) & -0x4001
        number = bits.to(tl.float16, bitcast=True)
    elif tile.dtype == tl.int8 and dtype == tl.float16:
        # 0x4B000000 is 2^23, and its last bit is worth 1. The hardware's own conversion runs at a quarter of the rate,
        # and with it two registers spill; to bfloat16 sm_90 has a way without it.
        bits = (tile.to(tl.uint8, bitcast=True) ^ 0x80).to(tl.uint32) | 0x4B000000
        number = bits.to(tl.float32, bitcast=True) - 8388736.0
    else:
        number = tile
    if INTERPRETED or (number.dtype == tl.float16 and dtype == tl.bfloat16):
        # Direct conversion runs at a quarter of the rate, and the interpreter cannot do it: it converts bfloat16 only
        # by way of float32.
        number = number.to(tl.float32)
    return number.to(dtype)


@triton.jit
def resident_scores(
    query,
    key_base,
    first,
    inside,
    stride,
    width,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
    IS_PADDED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """absorbed_query @ key.T; the query is a tuple of chunks."""
    score = tl.zeros([BLOCK_ROWS, BLOCK_M], dtype=tl.float32)
    for i in tl.static_range(CHUNKS):
        tile = load_tile(key_base, first, inside, stride, width, BLOCK_M, i * CHUNK, CHUNK, IS_PADDED)
        score = product(query[i], tl.trans(as_numbers(tile, query[i].dtype)), score, PRECISION)
    return score  # [BLOCK_ROWS, BLOCK_M]


@triton.jit
def streamed_scores(
    rows_base,
    present,
    key_base,
    first,
    inside,
    stride,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    P: tl.constexpr,
    CHUNK: tl.constexpr,
    IS_PADDED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """absorbed_query @ key.T where the query does not fit on the chip: both arrive chunk by chunk."""
    score = tl.zeros([BLOCK_ROWS, BLOCK_M], dtype=tl.float32)
    for start in range(0, P, CHUNK):
        query = gather_rows(rows_base + start, present, P - start, 1, CHUNK, IS_PADDED)
        tile = load_tile(key_base + start, first, inside, stride, P - start, BLOCK_M, 0, CHUNK, IS_PADDED)
        score = product(query[0], tl.trans(as_numbers(tile, query[0].dtype)), score, PRECISION)
    return score  # [BLOCK_ROWS, BLOCK_M]


@triton.jit
def resident_sum(
    acc,
    weights,
    shrink,
    value_base,
    first,
    inside,
    stride,
    width,
    BLOCK_M: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
    IS_PADDED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """acc * shrink + weights @ value, chunk by chunk of the tuple `acc`."""
    grown = ()
    for i in tl.static_range(CHUNKS):
        tile = load_tile(value_base, first, inside, stride, width, BLOCK_M, i * CHUNK, CHUNK, IS_PADDED)
        grown += (product(weights, as_numbers(tile, weights.dtype), acc[i] * shrink[:, None], PRECISION),)
    return grown


@triton.jit
def streamed_sum(
    partial_rows,
    present,
    weights,
    shrink,
    value_base,
    first,
    inside,
    stride,
    seen_before,
    BLOCK_M: tl.constexpr,
    P: tl.constexpr,
    CHUNK: tl.constexpr,
    IS_PADDED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`resident_sum` where the sums do not fit on the chip: they stay in this program's part of the scratch memory."""
    for start in range(0, P, CHUNK):
        tile = load_tile(value_base + start, first, inside, stride, P - start, BLOCK_M, 0, CHUNK, IS_PADDED)
        dim = start + tl.arange(0, CHUNK)
        pointers = partial_rows[:, None] + dim[None, :]
        stored = present[:, None]
        if IS_PADDED:
            stored = stored & (dim < P)[None, :]
        # Before the first tile the scratch memory is unwritten and may hold NaN, so it is not read.
        acc = tl.load(pointers, mask=stored & seen_before, other=0.0)
        acc = product(weights, as_numbers(tile, weights.dtype), acc * shrink[:, None], PRECISION)
        tl.store(pointers, acc, mask=stored)
    # Other threads of the program read these sums for the next tile.
    tl.debug_barrier()
