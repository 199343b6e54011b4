"""Loops over spans of columns in the single pass (Triton): scores, one online-softmax step, prompt, knowledge.

A head dimension is cut into one or two parts (`tiles.split_head_dim`), so tiles of rows are tuples. The state of an
online softmax is (weighted values, running maximum, running sum). Rows, a mask and a bias for each token are (address,
stride); an absent mask, bias or window is None.
"""

# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from kblam_kernels.common.triton_parts import LOG2E, is_visible, load_rows, load_vector, product, zeros


class KernelTile(NamedTuple):
    """A tile and what it is compiled for. Part i of a row has SIZES[i] columns, from STARTS[i]; WIDTH is head_dim."""

    WIDTH: int
    PARTS: int
    STARTS: tuple[int, ...]
    SIZES: tuple[int, ...]
    BLOCK_N: int
    BLOCK_M: int
    RAGGED_STAGES: int
    BIAS_PER_TOKEN: bool


@triton.jit
def nothing(TILE: tl.constexpr):
    """Sums for the rows of a tile before anything was added, part by part."""
    parts = ()
    PARTS: tl.constexpr = TILE.PARTS
    for i in tl.static_range(PARTS):
        parts += (zeros(TILE.BLOCK_N, TILE.SIZES[i]),)
    return parts


@triton.jit
def load_parts(rows, start, stop, BLOCK: tl.constexpr, TILE: tl.constexpr):
    """The rows [start, start + BLOCK), part by part; 0 from `stop` on."""
    parts = ()
    PARTS: tl.constexpr = TILE.PARTS
    for i in tl.static_range(PARTS):
        parts += (load_rows(rows, start, stop, BLOCK, TILE.STARTS[i], TILE.SIZES[i], TILE.WIDTH, True),)
    return parts


@triton.jit
def scores(query, key, start, stop, TILE: tl.constexpr, BOUNDED: tl.constexpr):
    """query @ key.T for the columns [start, start + BLOCK_M), in float32."""
    score = zeros(TILE.BLOCK_N, TILE.BLOCK_M)
    PARTS: tl.constexpr = TILE.PARTS
    for i in tl.static_range(PARTS):
        tile = load_rows(key, start, stop, TILE.BLOCK_M, TILE.STARTS[i], TILE.SIZES[i], TILE.WIDTH, BOUNDED)
        score = product(query[i], tl.trans(tile), score)
    return score  # [BLOCK_N, BLOCK_M]


@triton.jit
def absorb(state, score, scale, shift, value, start, stop, TILE: tl.constexpr, BOUNDED: tl.constexpr):
    """One online-softmax step with the scores `score * scale + shift`, in powers of two; scale is not negative.

    Scaling after the row maximum leaves one FMA an element; a multiply before it would be a second instruction.
    """
    acc, row_max, row_sum = state
    new_max = tl.maximum(row_max, tl.max(score, 1) * scale + shift)  # [BLOCK_N]
    # A row that has seen nothing keeps -inf; subtracting that from itself would be NaN.
    safe_max = tl.where(new_max == float("-inf"), 0.0, new_max)
    p = tl.math.exp2(score * scale - (safe_max - shift)[:, None])  # [BLOCK_N, BLOCK_M]
    shrink = tl.math.exp2(row_max - safe_max)  # [BLOCK_N]
    row_sum = row_sum * shrink + tl.sum(p, 1)
    weights = p.to(value[0].dtype.element_ty)
    grown = ()
    PARTS: tl.constexpr = TILE.PARTS
    for i in tl.static_range(PARTS):
        tile = load_rows(value, start, stop, TILE.BLOCK_M, TILE.STARTS[i], TILE.SIZES[i], TILE.WIDTH, BOUNDED)
        grown += (product(weights, tile, acc[i] * shrink[:, None]),)
    return grown, new_max, row_sum


@triton.jit
def prompt_span(
    state, query, key, value, mask, scale, first, end, T, last_column, window, TILE: tl.constexpr, RAGGED: tl.constexpr
):
    """Processes prompt columns [first, end) in whole tiles. RAGGED tiles hold columns that some row must not see."""
    for start in tl.range(first, end, TILE.BLOCK_M, num_stages=TILE.RAGGED_STAGES if RAGGED else None):
        score = scores(query, key, start, T, TILE, RAGGED)
        if RAGGED or mask is not None:
            score = score * scale
            if mask is not None:
                # 0 or -inf: one FMA instead of compare and select, and float32 can be fetched ahead by cp.async.
                score += load_vector(mask[0], start, T, mask[1], 0.0, TILE.BLOCK_M, RAGGED)[None, :]
            if RAGGED:
                column = start + tl.arange(0, TILE.BLOCK_M)
                visible = is_visible(last_column[:, None], column[None, :], window)  # [BLOCK_N, BLOCK_M]
                score = tl.where(visible, score, float("-inf"))
            state = absorb(state, score, 1.0, 0.0, value, start, T, TILE, RAGGED)
        else:
            state = absorb(state, score, scale, 0.0, value, start, T, TILE, RAGGED)
    return state


@triton.jit
def knowledge_span(
    state, query, key, value, bias, scale, shift, first, end, stop, TILE: tl.constexpr, RAGGED: tl.constexpr
):
    """Processes knowledge tokens [first, end) in whole tiles; a RAGGED tile reaches past `stop`."""
    for start in tl.range(first, end, TILE.BLOCK_M, num_stages=TILE.RAGGED_STAGES if RAGGED else None):
        score = scores(query, key, start, stop, TILE, RAGGED)
        if RAGGED or TILE.BIAS_PER_TOKEN:
            token = start + tl.arange(0, TILE.BLOCK_M)
            score = score * scale + shift
            if TILE.BIAS_PER_TOKEN:
                added = load_vector(bias[0], start, stop, bias[1], float("-inf"), TILE.BLOCK_M, RAGGED)
                score += added[None, :] * LOG2E
            else:
                score = tl.where((token < stop)[None, :], score, float("-inf"))
            state = absorb(state, score, 1.0, 0.0, value, start, stop, TILE, RAGGED)
        else:
            state = absorb(state, score, scale, shift, value, start, stop, TILE, RAGGED)
    return state
