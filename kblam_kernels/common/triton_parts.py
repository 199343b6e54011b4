"""Pieces that Triton kernels share: products, bounded loads and stores, ranges."""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
import os

import triton
import triton.language as tl
from triton.language.extra import cuda

from kblam_kernels.common import launch

LOG2E = tl.constexpr(launch.LOG2E)
LN2 = tl.constexpr(math.log(2.0))
# tf32x3 splits a float32 into two tf32 parts and keeps three of the four products: tensor cores (52 TFLOP/s at most on
# an A100, against 19.5 of "ieee") at an error near float32's own. 16-bit inputs ignore it.
FLOAT32_PRECISION = tl.constexpr("tf32x3")
# The interpreter holds bfloat16 as integers and would multiply these. Products of two bfloat16 are exact in float32.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def let_next_start(CHAINED: tl.constexpr):
    """Lets the next launch of a chain start: its programs take the room that this one's leave, and wait."""
    if CHAINED:
        cuda.gdc_launch_dependents()


@triton.jit
def wait_for_previous(CHAINED: tl.constexpr):
    """Waits until all of the previous launch of a chain is over and written; that one has waited for those before."""
    if CHAINED:
        cuda.gdc_wait()


@triton.jit
def product(a, b, acc):
    """a @ b + acc, in float32."""
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=FLOAT32_PRECISION)


@triton.jit
def rounded(numbers, dtype: tl.constexpr):
    """float32 in another dtype, to the nearest; to bfloat16 the interpreter would cut off bits."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = numbers.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        numbers = tl.where(numbers == numbers, bits.to(tl.float32, bitcast=True), numbers)
    return numbers.to(dtype)


@triton.jit
def zeros(ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A tile of zeros, float32."""
    return tl.zeros([ROWS, COLUMNS], dtype=tl.float32)


@triton.jit
def unseen(ROWS: tl.constexpr):
    """Running maximum and sum of rows that have seen nothing."""
    return tl.full([ROWS], float("-inf"), dtype=tl.float32), tl.zeros([ROWS], dtype=tl.float32)


@triton.jit
def finite(maximum):
    """0 in place of -inf, which minus itself would be NaN."""
    return tl.where(maximum == float("-inf"), 0.0, maximum)


@triton.jit
def only_if(condition, mask):
    """A mask where one condition holds, else nothing. The interpreter of Triton 3.9 takes no `mask & condition`."""
    return tl.where(condition, mask, False)


@triton.jit
def is_visible(last, column, window):
    """Which prompt columns rows see up to their own, `last`; of both one has an axis of 1."""
    visible = column <= last
    if window is not None:
        visible = visible & (column > last - window)
    return visible


@triton.jit
def load_rows(
    matrix,
    start,
    stop,
    ROWS: tl.constexpr,
    FIRST_DIM: tl.constexpr,
    DIMS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BOUNDED: tl.constexpr,
):
    """Rows [start, start + ROWS) and columns [FIRST_DIM, FIRST_DIM + DIMS) of a matrix (address, stride of rows).

    Columns from HEAD_DIM on read as 0. When BOUNDED, rows from `stop` on do too; otherwise they must exist.
    """
    base, stride = matrix
    row = tl.arange(0, ROWS)
    dim = FIRST_DIM + tl.arange(0, DIMS)
    # In a loop over `start` only the scalar before the plus changes. All of it is 64-bit: M * stride can exceed 2^31.
    pointers = (base + tl.cast(start, tl.int64) * stride) + (row.to(tl.int64)[:, None] * stride + dim[None, :])
    if BOUNDED and FIRST_DIM + DIMS > HEAD_DIM:
        tile = tl.load(pointers, mask=(start + row < stop)[:, None] & (dim < HEAD_DIM)[None, :], other=0.0)
    elif BOUNDED:
        tile = tl.load(pointers, mask=(start + row < stop)[:, None], other=0.0)
    elif FIRST_DIM + DIMS > HEAD_DIM:
        tile = tl.load(pointers, mask=(dim < HEAD_DIM)[None, :], other=0.0)
    else:
        tile = tl.load(pointers)
    return tile  # [ROWS, DIMS]


@triton.jit
def store_rows(base, tile, stored, stride, FIRST_DIM: tl.constexpr, DIMS: tl.constexpr, HEAD_DIM: tl.constexpr):
    """Writes the rows of `tile` [ROWS, DIMS] where `stored` [ROWS], from column FIRST_DIM, in the dtype of `base`."""
    row = tl.arange(0, tile.shape[0])
    dim = FIRST_DIM + tl.arange(0, DIMS)
    kept = stored[:, None]
    if FIRST_DIM + DIMS > HEAD_DIM:
        kept = kept & (dim < HEAD_DIM)[None, :]
    pointers = base + (row.to(tl.int64)[:, None] * stride + dim[None, :])
    tl.store(pointers, tile.to(base.dtype.element_ty), mask=kept)


@triton.jit
def load_range(base, end_stride, M):
    """The [start, end) of a row's knowledge, within [0, M]. Clamped before narrowing: an int64 end may be too large."""
    start = tl.minimum(tl.maximum(tl.load(base), 0), M).to(tl.int32)
    end = tl.minimum(tl.maximum(tl.load(base + end_stride), 0), M).to(tl.int32)
    return start, end


@triton.jit
def load_vector(base, start, stop, stride, other, LENGTH: tl.constexpr, BOUNDED: tl.constexpr):
    """Elements [start, start + LENGTH) of a strided vector; when BOUNDED, `other` from `stop` on."""
    element = tl.arange(0, LENGTH)
    pointers = (base + tl.cast(start, tl.int64) * stride) + element * stride
    if BOUNDED:
        elements = tl.load(pointers, mask=start + element < stop, other=other)
    else:
        elements = tl.load(pointers)
    return elements  # [LENGTH]
