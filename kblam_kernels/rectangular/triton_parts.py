"""Pieces of the Triton kernels of this folder: bounded loads, one online-softmax step, loops over spans of columns.

A head dimension is cut into DIM_MAIN and DIM_REST (`tiles.split_head_dim`); DIM_REST is 0 when there is one part.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import math
import os

import triton
import triton.language as tl

LOG2E = tl.constexpr(math.log2(math.e))
# The interpreter holds bfloat16 as integers and would multiply those. Products of two bfloat16 are exact in float32.
INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def product(a, b, acc, PRECISION: tl.constexpr):
    """a @ b + acc, in float32."""
    if INTERPRETED:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def load_rows(
    base,
    start,
    stop,
    stride,
    ROWS: tl.constexpr,
    FIRST_DIM: tl.constexpr,
    DIMS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BOUNDED: tl.constexpr,
):
    """Rows [start, start + ROWS) and columns [FIRST_DIM, FIRST_DIM + DIMS) of a matrix.

    Columns from HEAD_DIM on read as 0, and so do rows from `stop` on when BOUNDED; else they must exist.
    """
    row = tl.arange(0, ROWS)
    dim = FIRST_DIM + tl.arange(0, DIMS)
    # In a loop over `start` only the scalar before the plus changes. All of it is 64-bit: M * stride passes 2^31.
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
    """The [start, end) of a row's knowledge, within [0, M]. Bounded before it is narrowed: int64 may say "no end"."""
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


@triton.jit
def scores(
    query,
    query_rest,
    key_base,
    start,
    stop,
    stride,
    BLOCK_M: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_MAIN: tl.constexpr,
    DIM_REST: tl.constexpr,
    BOUNDED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """query @ key.T for the columns [start, start + BLOCK_M), in float32."""
    key = load_rows(key_base, start, stop, stride, BLOCK_M, 0, DIM_MAIN, HEAD_DIM, BOUNDED)
    score = tl.zeros([query.shape[0], BLOCK_M], dtype=tl.float32)
    score = product(query, tl.trans(key), score, PRECISION)
    if DIM_REST > 0:
        key_rest = load_rows(key_base, start, stop, stride, BLOCK_M, DIM_MAIN, DIM_REST, HEAD_DIM, BOUNDED)
        score = product(query_rest, tl.trans(key_rest), score, PRECISION)
    return score  # [BLOCK_N, BLOCK_M]


@triton.jit
def absorb(
    acc,
    acc_rest,
    row_max,
    row_sum,
    score,
    scale,
    shift,
    value_base,
    start,
    stop,
    stride,
    BLOCK_M: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_MAIN: tl.constexpr,
    DIM_REST: tl.constexpr,
    BOUNDED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One online-softmax step with the scores `score * scale + shift`, in powers of two; scale is not negative.

    Scaling after the row maximum leaves one FMA an element; a multiply before it would be a second instruction.
    """
    new_max = tl.maximum(row_max, tl.max(score, 1) * scale + shift)  # [BLOCK_N]
    # A row that has seen nothing keeps -inf; subtracting that from itself would be NaN.
    safe_max = tl.where(new_max == float("-inf"), 0.0, new_max)
    p = tl.math.exp2(score * scale - (safe_max - shift)[:, None])  # [BLOCK_N, BLOCK_M]
    shrink = tl.math.exp2(row_max - safe_max)  # [BLOCK_N]
    row_sum = row_sum * shrink + tl.sum(p, 1)
    value = load_rows(value_base, start, stop, stride, BLOCK_M, 0, DIM_MAIN, HEAD_DIM, BOUNDED)
    p = p.to(value.dtype)
    acc = product(p, value, acc * shrink[:, None], PRECISION)  # [BLOCK_N, DIM_MAIN]
    if DIM_REST > 0:
        value_rest = load_rows(value_base, start, stop, stride, BLOCK_M, DIM_MAIN, DIM_REST, HEAD_DIM, BOUNDED)
        acc_rest = product(p, value_rest, acc_rest * shrink[:, None], PRECISION)
    return acc, acc_rest, new_max, row_sum


@triton.jit
def prompt_span(
    acc,
    acc_rest,
    row_max,
    row_sum,
    query,
    query_rest,
    key_base,
    value_base,
    mask_base,
    key_stride,
    value_stride,
    mask_stride,
    scale,
    first,
    end,
    stop,
    last_column,
    window,
    BLOCK_M: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_MAIN: tl.constexpr,
    DIM_REST: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    RAGGED: tl.constexpr,
    RAGGED_STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Takes in prompt columns [first, end) in whole tiles. RAGGED tiles hold columns that some row must not see."""
    for start in tl.range(first, end, BLOCK_M, num_stages=RAGGED_STAGES if RAGGED else None):
        score = scores(
            query, query_rest, key_base, start, stop, key_stride,
            BLOCK_M, HEAD_DIM, DIM_MAIN, DIM_REST, RAGGED, PRECISION,
        )  # fmt: skip
        if RAGGED or HAS_MASK:
            score = score * scale
            if HAS_MASK:
                # 0 or -inf: one FMA instead of compare and select, and float32 can be fetched ahead by cp.async.
                score += load_vector(mask_base, start, stop, mask_stride, 0.0, BLOCK_M, RAGGED)[None, :]
            if RAGGED:
                column = start + tl.arange(0, BLOCK_M)
                visible = column[None, :] <= last_column[:, None]  # [BLOCK_N, BLOCK_M]
                if HAS_WINDOW:
                    visible = visible & (column[None, :] > last_column[:, None] - window)
                score = tl.where(visible, score, float("-inf"))
            acc, acc_rest, row_max, row_sum = absorb(
                acc, acc_rest, row_max, row_sum, score, 1.0, 0.0, value_base, start, stop, value_stride,
                BLOCK_M, HEAD_DIM, DIM_MAIN, DIM_REST, RAGGED, PRECISION,
            )  # fmt: skip
        else:
            acc, acc_rest, row_max, row_sum = absorb(
                acc, acc_rest, row_max, row_sum, score, scale, 0.0, value_base, start, stop, value_stride,
                BLOCK_M, HEAD_DIM, DIM_MAIN, DIM_REST, RAGGED, PRECISION,
            )  # fmt: skip
    return acc, acc_rest, row_max, row_sum


@triton.jit
def knowledge_span(
    acc,
    acc_rest,
    row_max,
    row_sum,
    query,
    query_rest,
    key_base,
    value_base,
    bias_base,
    key_stride,
    value_stride,
    bias_stride,
    scale,
    shift,
    first,
    end,
    stop,
    BLOCK_M: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_MAIN: tl.constexpr,
    DIM_REST: tl.constexpr,
    BIAS_PER_TOKEN: tl.constexpr,
    RAGGED: tl.constexpr,
    RAGGED_STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Takes in knowledge tokens [first, end) in whole tiles; a RAGGED tile reaches past `stop`."""
    for start in tl.range(first, end, BLOCK_M, num_stages=RAGGED_STAGES if RAGGED else None):
        score = scores(
            query, query_rest, key_base, start, stop, key_stride,
            BLOCK_M, HEAD_DIM, DIM_MAIN, DIM_REST, RAGGED, PRECISION,
        )  # fmt: skip
        if RAGGED or BIAS_PER_TOKEN:
            token = start + tl.arange(0, BLOCK_M)
            score = score * scale + shift
            if BIAS_PER_TOKEN:
                bias = load_vector(bias_base, start, stop, bias_stride, float("-inf"), BLOCK_M, RAGGED)
                score += bias[None, :] * LOG2E
            else:
                score = tl.where((token < stop)[None, :], score, float("-inf"))
            acc, acc_rest, row_max, row_sum = absorb(
                acc, acc_rest, row_max, row_sum, score, 1.0, 0.0, value_base, start, stop, value_stride,
                BLOCK_M, HEAD_DIM, DIM_MAIN, DIM_REST, RAGGED, PRECISION,
            )  # fmt: skip
        else:
            acc, acc_rest, row_max, row_sum = absorb(
                acc, acc_rest, row_max, row_sum, score, scale, shift, value_base, start, stop, value_stride,
                BLOCK_M, HEAD_DIM, DIM_MAIN, DIM_REST, RAGGED, PRECISION,
            )  # fmt: skip
    return acc, acc_rest, row_max, row_sum
