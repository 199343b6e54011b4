"""Both ends of latent decode (Triton): queries absorb the key projection, beside the prompt; splits merge, and values
are projected."""

# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

import triton
import triton.language as tl

from kblam_kernels.common.call import Sizes
from kblam_kernels.common.launch import CUT, SIZES, STRIDES, Cut, Strides
from kblam_kernels.common.triton_parts import (
    LN2,
    finite,
    let_next_start,
    product,
    rounded,
    unseen,
    wait_for_previous,
    zeros,
)
from kblam_kernels.common.triton_split import prompt_split


@triton.jit
def _absorb(
    program, query, weight, bias, absorbed, constant, sizes, LATENT: tl.constexpr, HEAD: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """Some rows of one head through one chunk of the columns of its key weight.

    Rows of a head are counted (batch, query), those of the results (batch, head, query).
    """
    N = sizes.N
    chunk = program % LATENT.COUNT
    head = program // LATENT.COUNT % sizes.Hq
    row_tile = program // (LATENT.COUNT * sizes.Hq)
    local = row_tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    present = local < sizes.B * N
    batch, new = (local // N).to(tl.int64), (local % N).to(tl.int64)
    rows_base = query.data + batch * query.batch + head.to(tl.int64) * query.head + new * query.row
    at = (batch * sizes.Hq + head) * N + new
    column = chunk * LATENT.SIZE + tl.arange(0, LATENT.SIZE)
    weight_base = weight.data + head.to(tl.int64) * weight.head
    acc = zeros(BLOCK_ROWS, LATENT.SIZE)
    _, of_bias = unseen(BLOCK_ROWS)
    COUNT: tl.constexpr = HEAD.COUNT
    for i in tl.static_range(COUNT):
        dim = i * HEAD.SIZE + tl.arange(0, HEAD.SIZE)
        inside = dim < HEAD.WIDTH
        r = tl.load(rows_base[:, None] + dim[None, :], mask=present[:, None] & inside[None, :], other=0.0)
        pointers = weight_base + dim.to(tl.int64)[:, None] * weight.row + column[None, :]
        w = tl.load(pointers, mask=inside[:, None] & (column < LATENT.WIDTH)[None, :], other=0.0)
        acc = product(r, w, acc)  # [BLOCK_ROWS, SIZE]
        if chunk == 0:
            b = tl.load(bias + head * HEAD.WIDTH + dim, mask=inside, other=0.0).to(tl.float32)
            of_bias += tl.sum(r.to(tl.float32) * b[None, :], 1)
    to = absorbed + at[:, None] * LATENT.WIDTH + column[None, :]
    tl.store(to, rounded(acc, absorbed.dtype.element_ty), mask=present[:, None] & (column < LATENT.WIDTH)[None, :])
    if chunk == 0:
        tl.store(constant + at, of_bias, mask=present)


@triton.jit(do_not_specialize=[*STRIDES, *SIZES, *CUT, "window"])
def latent_absorb_kernel(
    prompt,
    query,
    weight,
    bias,
    absorbed,
    constant,
    partial_prompt,
    states,
    strides_bias, strides_range, strides_mask,
    sizes_B, sizes_Hq, sizes_Hkv, sizes_N, sizes_T, sizes_M,
    cut_rows, cut_row_count, cut_row_tiles, cut_groups, cut_knowledge_programs, cut_prompt_programs,
    cut_knowledge_splits, cut_splits, cut_split_size, cut_prompt_row_tiles, cut_is_spanned,
    window,
    scale,
    LATENT: tl.constexpr,
    HEAD: tl.constexpr,
    PROMPT: tl.constexpr,
    PROMPT_HEAD: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    CHAINED: tl.constexpr,
):  # fmt: skip
    """One program: the query heads of one key head against a split of the prompt, or some rows that absorb.

    The prompt is here because its programs are small, and need nothing of this launch: beside those of the knowledge,
    of which one fills a multiprocessor, they would take its place.
    """
    let_next_start(CHAINED)
    strides = Strides(strides_bias, strides_range, strides_mask)
    sizes = Sizes(sizes_B, sizes_Hq, sizes_Hkv, sizes_N, sizes_T, sizes_M)
    cut = Cut(
        cut_rows, cut_row_count, cut_row_tiles, cut_groups, cut_knowledge_programs, cut_prompt_programs,
        cut_knowledge_splits, cut_splits, cut_split_size, cut_prompt_row_tiles, cut_is_spanned,
    )  # fmt: skip
    program = tl.program_id(0)
    if program < cut.prompt_programs:
        # First, because they take longer.
        prompt_split(
            program, prompt, partial_prompt, states, strides, sizes, cut, window, scale, PROMPT, PROMPT_HEAD
        )  # fmt: skip
    else:
        _absorb(
            program - cut.prompt_programs, query, weight, bias, absorbed, constant, sizes, LATENT, HEAD, BLOCK_ROWS
        )  # fmt: skip


@triton.jit
def _levels(states, at, last):
    """Maximum and sum of splits at `at`, -inf and 0 from `last` on."""
    level = tl.load(states.maximum + at, mask=at < last, other=float("-inf"))
    return level, tl.load(states.total + at, mask=at < last, other=0.0)


@triton.jit
def _values(partial, factor, place, split_stride, column, width):
    """Weighted values of splits `place` of one row, rescaled: [SPLITS, COLUMNS].

    A split that saw nothing has factor 0; nobody wrote its memory, which may be NaN.
    """
    pointers = partial + (place.to(tl.int64) * split_stride)[:, None] + column[None, :]
    values = tl.load(pointers, mask=(factor > 0.0)[:, None] & (column < width)[None, :], other=0.0)
    return values * factor[:, None]


@triton.jit
def _merged_prompt(partial, states, first, last, split_stride, dim, width, GROUPS: tl.constexpr):
    """The prompt's part of one row, in any number of splits: values, maximum, sum."""
    some = tl.arange(0, GROUPS)
    high = float("-inf")
    summed = 0.0
    values = tl.zeros(dim.shape, dtype=tl.float32)
    for start in range(first, last, GROUPS):
        level, total = _levels(states, start + some, last)
        new_high = tl.maximum(high, tl.max(level, 0))
        factor = tl.math.exp2(level - finite(new_high))
        shrink = tl.math.exp2(high - finite(new_high))
        values *= shrink
        values += tl.sum(_values(partial, factor, start - first + some, split_stride, dim, width), 0)
        summed = summed * shrink + tl.sum(total * factor, 0)
        high = new_high
    return values, high, summed


@triton.jit
def _weights(states, first, last, MERGE: tl.constexpr):
    """How the splits of the knowledge of one row are weighted: SPLITS factors [GROUPS], the maximum, the sum."""
    some = tl.arange(0, MERGE.GROUPS) * MERGE.SPLITS
    COUNT: tl.constexpr = MERGE.SPLITS
    highest = float("-inf")
    levels = ()
    totals = ()
    for j in tl.static_range(COUNT):
        level, total = _levels(states, first + some + j, last)
        highest = tl.maximum(highest, tl.max(level, 0))
        levels += (level,)
        totals += (total,)
    factors = ()
    summed = tl.zeros(some.shape, dtype=tl.float32)
    for j in tl.static_range(COUNT):
        factor = tl.math.exp2(levels[j] - finite(highest))
        summed += totals[j] * factor
        factors += (factor,)
    return factors, highest, tl.sum(summed, 0)


@triton.jit(do_not_specialize=[*SIZES, *CUT])
def latent_project_kernel(
    partial_latent,
    partial_prompt,
    states,
    weight,
    bias,
    output,
    lse,
    sizes_B, sizes_Hq, sizes_Hkv, sizes_N, sizes_T, sizes_M,
    cut_rows, cut_row_count, cut_row_tiles, cut_groups, cut_knowledge_programs, cut_prompt_programs,
    cut_knowledge_splits, cut_splits, cut_split_size, cut_prompt_row_tiles, cut_is_spanned,
    LATENT: tl.constexpr,
    HEAD: tl.constexpr,
    MERGE: tl.constexpr,
    CHAINED: tl.constexpr,
):  # fmt: skip
    """One program: merges the splits of some rows of one head and projects them, for one chunk of its columns.

    The splits of a group are added one after the other, as a program that folds a group adds them, then the groups. One
    row after the other, in the same shapes whatever their number, so that no bit depends on it.
    """
    wait_for_previous(CHAINED)
    sizes = Sizes(sizes_B, sizes_Hq, sizes_Hkv, sizes_N, sizes_T, sizes_M)
    cut = Cut(
        cut_rows, cut_row_count, cut_row_tiles, cut_groups, cut_knowledge_programs, cut_prompt_programs,
        cut_knowledge_splits, cut_splits, cut_split_size, cut_prompt_row_tiles, cut_is_spanned,
    )  # fmt: skip
    N, splits, knowledge_splits = sizes.N, cut.splits, cut.knowledge_splits
    ROWS: tl.constexpr = MERGE.ROWS
    SPLITS: tl.constexpr = MERGE.SPLITS
    row_tile, head, chunk = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    rows = tl.minimum(ROWS, sizes.B * N - row_tile * ROWS)
    # A matrix instruction takes 16 rows; those from `rows` on are zeros.
    place = tl.arange(0, 16)
    dim = chunk * HEAD.SIZE + tl.arange(0, HEAD.SIZE)
    prompt_stride = tl.cast(cut.row_count, tl.int64) * HEAD.WIDTH
    b = tl.load(bias + head * HEAD.WIDTH + dim, mask=dim < HEAD.WIDTH, other=0.0).to(tl.float32)
    share = tl.zeros([16], dtype=tl.float32)
    result = zeros(16, HEAD.SIZE)
    for i in range(0, rows):
        batch, new = (row_tile * ROWS + i) // N, (row_tile * ROWS + i) % N
        row = tl.cast((batch * sizes.Hq + head) * N + new, tl.int64)
        first = row * splits
        knowledge_max, knowledge_sum = _weights(states, first, first + knowledge_splits, MERGE)[1:]
        prompt, prompt_max, prompt_sum = _merged_prompt(
            partial_prompt + row * HEAD.WIDTH, states, first + knowledge_splits, first + splits, prompt_stride, dim,
            HEAD.WIDTH, MERGE.GROUPS,
        )  # fmt: skip
        # Both. A padding row sees no prompt column, so no knowledge either, and may hold NaN. The prompt's own maximum
        # tells: its sum, rescaled to the joint maximum, underflows where knowledge scores are far above the prompt's.
        # Of a call without a prompt every row is one that sees.
        highest = tl.maximum(knowledge_max, prompt_max)
        sees = tl.where(knowledge_splits == splits, knowledge_max, prompt_max) > float("-inf")
        of_prompt = tl.math.exp2(prompt_max - finite(highest))
        of_knowledge = tl.math.exp2(knowledge_max - finite(highest))
        summed = prompt_sum * of_prompt + knowledge_sum * of_knowledge
        of_prompt, of_knowledge = of_prompt / summed, of_knowledge / summed
        is_row = tl.where(sees, place, 16) == i
        share = tl.where(is_row, of_knowledge * MERGE.VALUE_UNIT, share)
        shown = prompt * of_prompt + b * (knowledge_sum * of_knowledge)
        result = tl.where(is_row[:, None], shown[None, :], result)
        if chunk == 0:
            at = lse.data + tl.cast(batch, tl.int64) * lse.batch + tl.cast(head, tl.int64) * lse.head
            row_lse = (highest + tl.math.log2(summed)) * LN2
            tl.store(at + tl.cast(new, tl.int64) * lse.row, tl.where(sees, row_lse, float("-inf")))
    some = tl.arange(0, MERGE.GROUPS) * SPLITS
    latent_stride = tl.cast(cut.row_count, tl.int64) * LATENT.WIDTH
    weight_base = weight.data + tl.cast(head, tl.int64) * weight.head
    for start in range(0, LATENT.WIDTH, LATENT.SIZE):
        column = start + tl.arange(0, LATENT.SIZE)
        pointers = weight_base + dim.to(tl.int64)[:, None] * weight.row + column[None, :]
        w = tl.load(pointers, mask=(dim < HEAD.WIDTH)[:, None] & (column < LATENT.WIDTH)[None, :], other=0.0)
        mixed = zeros(16, LATENT.SIZE)
        for i in range(0, rows):
            batch, new = (row_tile * ROWS + i) // N, (row_tile * ROWS + i) % N
            row = tl.cast((batch * sizes.Hq + head) * N + new, tl.int64)
            factors = _weights(states, row * splits, row * splits + knowledge_splits, MERGE)[0]
            values = zeros(MERGE.GROUPS, LATENT.SIZE)
            for j in tl.static_range(SPLITS):
                values += _values(
                    partial_latent + row * LATENT.WIDTH, factors[j], some + j, latent_stride, column, LATENT.WIDTH
                )
            mixed = tl.where((place == i)[:, None], tl.sum(values, 0)[None, :], mixed)
        # Of a row that sees nothing the share is 0, and its latents may be NaN.
        shared = tl.where((share == 0.0)[:, None], 0.0, mixed * share[:, None])
        result = product(rounded(shared, w.dtype), tl.trans(w), result)
    local = row_tile * ROWS + place
    batch, new = (local // N).to(tl.int64), (local % N).to(tl.int64)
    to = output.data + batch * output.batch + tl.cast(head, tl.int64) * output.head + new * output.row
    mask = (place < rows)[:, None] & (dim < HEAD.WIDTH)[None, :]
    tl.store(to[:, None] + dim[None, :], rounded(result, output.data.dtype.element_ty), mask=mask)
