"""The two kernels of latent decode (Triton): splits of the latents and of the prompt, then their merge.

`triton_decode.mix` launches them; the pieces shared with dense decode are in `common/triton_split.py`.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from kblam_kernels.common.triton_parts import LN2, LOG2E, product
from kblam_kernels.common.triton_split import (
    as_numbers,
    gather_rows,
    levels_of,
    load_tile,
    mix_of,
    nothing_seen,
    prompt_split,
    range_of_split,
    scores_of,
    store_statistics,
    store_values,
    streamed_scores,
    sums_of,
    take_in,
    weigh,
)


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
    LATENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """`take_in` where the sums do not fit on the chip: they stay in this program's part of the scratch memory."""
    for start in range(0, LATENT.WIDTH, LATENT.SIZE):
        tile = load_tile(value_base + start, first, inside, stride, LATENT.WIDTH - start, 0, LATENT, BLOCK)
        dim = start + tl.arange(0, LATENT.SIZE)
        pointers = partial_rows[:, None] + dim[None, :]
        stored = present[:, None]
        if LATENT.IS_PADDED:
            stored = stored & (dim < LATENT.WIDTH)[None, :]
        # Before the first tile the scratch memory is unwritten and may hold NaN, so it is not read.
        acc = tl.load(pointers, mask=stored & seen_before, other=0.0)
        acc = product(weights, as_numbers(tile, weights.dtype), acc * shrink[:, None])
        tl.store(pointers, acc, mask=stored)
    # Other threads of the program read these sums for the next tile.
    tl.debug_barrier()


@triton.jit
def _latent_split(
    program,
    latents,
    bias,
    knowledge_range,
    partial,
    states,
    strides,
    sizes,
    cut,
    scale,
    LATENT: tl.constexpr,
    VALUES: tl.constexpr,
    TILE: tl.constexpr,
):
    """A row tile against one split of the latents: for one part of the value columns, or streamed for all."""
    N, Hq = sizes.N, sizes.Hq
    query, key, value = latents.query, latents.key, latents.value
    part = program % TILE.VALUE_PARTS
    row_tile = program // TILE.VALUE_PARTS % cut.row_tiles
    group = program // (TILE.VALUE_PARTS * cut.row_tiles) % cut.groups
    split = program // (TILE.VALUE_PARTS * cut.row_tiles * cut.groups)
    local = row_tile * TILE.BLOCK_ROWS + tl.arange(0, TILE.BLOCK_ROWS)
    present = local < cut.rows
    row = group * cut.rows + local
    head = row // N % Hq
    rows_base = query.data + (row // (N * Hq)).to(tl.int64) * query.batch
    rows_base += head.to(tl.int64) * query.head + (row % N).to(tl.int64) * query.row
    c = tl.load(latents.constant + row, mask=present, other=0.0)
    start, first_seen, stop = range_of_split(split, knowledge_range, strides, sizes, cut, group, TILE.BLOCK_M)
    if bias is not None:
        bias_base = bias.data + group.to(tl.int64) * strides.bias
    partial_base = partial + split.to(tl.int64) * cut.row_count * LATENT.WIDTH
    first_column = part * VALUES.COUNT * VALUES.SIZE
    acc, row_max, row_sum = nothing_seen(TILE.BLOCK_ROWS, VALUES)
    if TILE.IS_RESIDENT:
        a = gather_rows(rows_base, present, LATENT.WIDTH, LATENT.COUNT, LATENT)
    # A counter: comparing with `start` would keep it in a register, and fp8 of 1,536 numbers spills on sm_90.
    seen = tl.zeros([], dtype=tl.int32)
    for first in range(start, stop, TILE.BLOCK_M):
        token = first + tl.arange(0, TILE.BLOCK_M)
        inside = (token >= first_seen) & (token < stop)
        if TILE.IS_RESIDENT:
            score = scores_of(a, key.data, first, inside, key.row, LATENT, TILE.BLOCK_M)
        else:
            score = streamed_scores(
                rows_base, present, key.data, first, inside, key.row, LATENT, TILE.BLOCK_ROWS, TILE.BLOCK_M
            )
        if latents.key_scale is not None:
            score *= (tl.load(latents.key_scale + token, mask=inside, other=0.0) * TILE.KEY_GAIN)[None, :]
        score = (score + c[:, None]) * (tl.load(latents.norm + token, mask=inside, other=0.0) * scale)[None, :]
        if bias is not None:
            pointers = bias_base + token.to(tl.int64) * bias.column
            score += tl.load(pointers, mask=inside, other=float("-inf"))[None, :] * LOG2E
        else:
            score = tl.where(inside[None, :], score, float("-inf"))
        p, shrink, row_max, row_sum = weigh(row_max, row_sum, score)
        if latents.value_scale is not None:
            p *= (tl.load(latents.value_scale + token, mask=inside, other=0.0) * TILE.VALUE_HEADROOM)[None, :]
        weights = p.to(query.data.dtype.element_ty)
        if TILE.IS_RESIDENT:
            acc = take_in(
                acc, weights, shrink, value.data + first_column, first, inside, value.row,
                LATENT.WIDTH - first_column, VALUES, TILE.BLOCK_M,
            )  # fmt: skip
        else:
            streamed_sum(
                partial_base + row.to(tl.int64) * LATENT.WIDTH, present, weights, shrink, value.data, first, inside,
                value.row, seen > 0, LATENT, TILE.BLOCK_M,
            )  # fmt: skip
        seen += 1
    store_statistics(states, row_max, row_sum, row, present & (part == 0), split, cut.splits)
    if TILE.IS_RESIDENT:
        width = LATENT.WIDTH - first_column
        store_values(partial_base + first_column, acc, row_max, row, present, LATENT.WIDTH, width, VALUES)


@triton.jit(do_not_specialize=["strides", "sizes", "cut", "window"])
def latent_decode_kernel(
    prompt,
    latents,
    bias,
    knowledge_range,
    partial_latent,
    partial_prompt,
    states,
    strides,
    sizes,
    cut,
    window,
    scale,
    LATENT: tl.constexpr,
    VALUES: tl.constexpr,
    TILE: tl.constexpr,
    PROMPT: tl.constexpr,
    HEAD: tl.constexpr,
):
    """One program: a row tile against one split of the latents, or of the prompt. `scale` has log2(e) folded in.

    Rows are counted (batch, head, query). LATENT, VALUES and HEAD are `Chunks`: of latents, of a program's part of the
    value columns, of a head.
    """
    program = tl.program_id(0)
    if program < cut.knowledge_programs:
        _latent_split(
            program, latents, bias, knowledge_range, partial_latent, states, strides, sizes, cut, scale,
            LATENT, VALUES, TILE,
        )  # fmt: skip
    else:
        prompt_split(
            program - cut.knowledge_programs, prompt, partial_prompt, states, strides, sizes, cut, window, scale,
            PROMPT, HEAD,
        )  # fmt: skip


@triton.jit(do_not_specialize=["sizes", "cut", "result_queries"])
def latent_merge_kernel(
    partial_latent,
    partial_prompt,
    states,
    prompt,
    latent,
    share,
    lse,
    sizes,
    cut,
    result_queries,
    P: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    VALUE_UNIT: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """One program: merges the splits of one row, for some columns of `latent` or, after those, of `prompt`.

    The N queries of a head are part of `result_queries` in `prompt`, `share` and `lse`.
    """
    Hq, N, splits, knowledge_splits = sizes.Hq, sizes.N, cut.splits, cut.knowledge_splits
    row = tl.program_id(0)
    block = tl.program_id(1)
    maximum = states.maximum + row.to(tl.int64) * splits
    total = states.total + row.to(tl.int64) * splits
    highest, sees = levels_of(maximum, knowledge_splits, splits, BLOCK_SPLITS)
    of_prompt = sums_of(maximum, total, highest, knowledge_splits, splits, BLOCK_SPLITS)
    of_knowledge = sums_of(maximum, total, highest, 0, knowledge_splits, BLOCK_SPLITS)
    inverse = 1.0 / (of_prompt + of_knowledge)
    LATENT_BLOCKS: tl.constexpr = (P + BLOCK_COLUMNS - 1) // BLOCK_COLUMNS
    column = tl.arange(0, BLOCK_COLUMNS)
    if block < LATENT_BLOCKS:
        column += block * BLOCK_COLUMNS
        mixed = mix_of(
            partial_latent + row.to(tl.int64) * P, maximum, highest, knowledge_splits,
            tl.cast(cut.row_count, tl.int64) * P, column, P, BLOCK_SPLITS,
        )  # fmt: skip
        head = (row // N % Hq).to(tl.int64)
        to = latent.data + (row // (N * Hq)).to(tl.int64) * latent.batch + head * latent.head
        to += (row % N).to(tl.int64) * latent.row + column
        mixed = tl.where(sees, mixed * (inverse * VALUE_UNIT), 0.0)
        tl.store(to, mixed.to(latent.data.dtype.element_ty), mask=column < P)
    else:
        column += (block - LATENT_BLOCKS) * BLOCK_COLUMNS
        mixed = mix_of(
            partial_prompt + row.to(tl.int64) * HEAD_DIM, maximum + knowledge_splits, highest,
            splits - knowledge_splits, tl.cast(cut.row_count, tl.int64) * HEAD_DIM, column, HEAD_DIM, BLOCK_SPLITS,
        )  # fmt: skip
        # The row of this query among those of the whole call.
        at = (row // N).to(tl.int64) * result_queries + row % N
        tl.store(prompt + at * HEAD_DIM + column, tl.where(sees, mixed * inverse, 0.0), mask=column < HEAD_DIM)
        if block == LATENT_BLOCKS:
            tl.store(share + at, tl.where(sees, of_knowledge * inverse, 0.0))
            row_lse = (highest + tl.math.log2(of_prompt + of_knowledge)) * LN2
            tl.store(lse + at, tl.where(sees, row_lse, float("-inf")))
