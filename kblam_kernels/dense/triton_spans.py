"""Loops over spans of columns in the single pass (Triton): scores, one online-softmax step, prompt, knowledge.

A head dimension is cut into DIM_MAIN and DIM_REST (`tiles.split_head_dim`); DIM_REST is 0 when there is one part. An
absent mask or window is None.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from kblam_kernels.common.triton_parts import LOG2E, load_rows, load_vector, product


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
    RAGGED: tl.constexpr,
    RAGGED_STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Processes prompt columns [first, end) in whole tiles. RAGGED tiles hold columns that some row must not see."""
    for start in tl.range(first, end, BLOCK_M, num_stages=RAGGED_STAGES if RAGGED else None):
        score = scores(
            query, query_rest, key_base, start, stop, key_stride,
            BLOCK_M, HEAD_DIM, DIM_MAIN, DIM_REST, RAGGED, PRECISION,
        )  # fmt: skip
        if RAGGED or mask_base is not None:
            score = score * scale
            if mask_base is not None:
                # 0 or -inf: one FMA instead of compare and select, and float32 can be fetched ahead by cp.async.
                score += load_vector(mask_base, start, stop, mask_stride, 0.0, BLOCK_M, RAGGED)[None, :]
            if RAGGED:
                column = start + tl.arange(0, BLOCK_M)
                visible = column[None, :] <= last_column[:, None]  # [BLOCK_N, BLOCK_M]
                if window is not None:
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
    """Processes knowledge tokens [first, end) in whole tiles; a RAGGED tile reaches past `stop`."""
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
