"""Both ends of latent decode (Triton): queries absorb the key projection, beside the prompt; splits merge, and values
are projected."""

# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

import triton
import triton.language as tl

from kblam_kernels.common.call import Sizes
from kblam_kernels.common.launch import Cut, Strides
from kblam_kernels.common.triton_parts import (
    LN2,
    finite,
    let_next_start,
    product,
    received,
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


@triton.jit(do_not_specialize=["strides", "sizes", "cut", "window"])
def latent_absorb_kernel(
    prompt,
    query,
    weight,
    bias,
    absorbed,
    constant,
    partial_prompt,
    states,
    strides,
    sizes,
    cut,
    window,
    scale,
    LATENT: tl.constexpr,
    HEAD: tl.constexpr,
    PROMPT: tl.constexpr,
    PROMPT_HEAD: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    CHAINED: tl.constexpr,
):
    """One program: the query heads of one key head against a split of the prompt, or some rows that absorb.

    The prompt is here because its programs are small, and need nothing of this launch: beside those of the knowledge,
    of which one fills a multiprocessor, they would take its place.
    """
    let_next_start(CHAINED)
    strides, sizes, cut = Strides(*received(strides)), Sizes(*received(sizes)), Cut(*received(cut))
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
def _levels(states, row, place, last, present):
    """Maximum and sum of some splits `place` [SPLITS] of rows, [ROWS, SPLITS]: -inf and 0 from split `last` on."""
    mask = present[:, None] & (place < last)[None, :]
    at = row[:, None] + place[None, :]
    level = tl.load(states.maximum + at, mask=mask, other=float("-inf"))
    return level, tl.load(states.total + at, mask=mask, other=0.0)


@triton.jit
def _values(partial, factor, place, last, present, split_stride, column, width):
    """Weighted values of some splits, rescaled: [ROWS, SPLITS, COLUMNS].

    A split that saw nothing has factor 0, and memory that nobody wrote: it is read, so that no load waits for another,
    and may be NaN.
    """
    mask = present[:, None, None] & (place < last)[None, :, None] & (column < width)[None, None, :]
    pointers = partial[:, None, None] + (place.to(tl.int64) * split_stride)[None, :, None] + column[None, None, :]
    values = tl.load(pointers, mask=mask, other=0.0)
    return tl.where(factor[:, :, None] > 0.0, values * factor[:, :, None], 0.0)


@triton.jit(do_not_specialize=["sizes", "cut"])
def latent_project_kernel(
    partial_latent,
    partial_prompt,
    states,
    weight,
    bias,
    output,
    lse,
    sizes,
    cut,
    LATENT: tl.constexpr,
    HEAD: tl.constexpr,
    MERGE: tl.constexpr,
    CHAINED: tl.constexpr,
):
    """One program: merges the splits of some rows of one head and projects them, for one chunk of its columns.

    The splits of a group are added one after the other, as a program that folds a group adds them, then the groups.
    """
    wait_for_previous(CHAINED)
    sizes, cut = Sizes(*received(sizes)), Cut(*received(cut))
    Hq, N, splits, knowledge_splits = sizes.Hq, sizes.N, cut.splits, cut.knowledge_splits
    ROWS: tl.constexpr = MERGE.ROWS
    GROUPS: tl.constexpr = MERGE.GROUPS
    SPLITS: tl.constexpr = MERGE.SPLITS
    row_tile, head, chunk = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    local = row_tile * ROWS + tl.arange(0, ROWS)
    present = local < sizes.B * N
    batch, new = (local // N).to(tl.int64), (local % N).to(tl.int64)
    row = (batch * Hq + head) * N + new
    states_row = row * splits
    some = tl.arange(0, GROUPS)
    dim = chunk * HEAD.SIZE + tl.arange(0, HEAD.SIZE)
    # The knowledge: GROUPS groups of SPLITS splits, or of one, already folded.
    knowledge_max, _ = unseen(ROWS)
    levels = ()
    totals = ()
    for i in tl.static_range(SPLITS):
        level, total = _levels(states, states_row, some * SPLITS + i, knowledge_splits, present)
        knowledge_max = tl.maximum(knowledge_max, tl.max(level, 1))
        levels += (level,)
        totals += (total,)
    safe_knowledge = finite(knowledge_max)
    factors = ()
    summed = zeros(ROWS, GROUPS)
    for i in tl.static_range(SPLITS):
        factors += (tl.math.exp2(levels[i] - safe_knowledge[:, None]),)
        summed += totals[i] * factors[i]
    knowledge_sum = tl.sum(summed, 1)
    # The prompt: splits in any number.
    prompt_max, prompt_sum = unseen(ROWS)
    prompt = zeros(ROWS, HEAD.SIZE)
    for start in range(knowledge_splits, splits, GROUPS):
        level, total = _levels(states, states_row, start + some, splits, present)
        new_max = tl.maximum(prompt_max, tl.max(level, 1))
        factor = tl.math.exp2(level - finite(new_max)[:, None])
        shrink = tl.math.exp2(prompt_max - finite(new_max))
        values = _values(
            partial_prompt + row * HEAD.WIDTH, factor, start - knowledge_splits + some, splits - knowledge_splits,
            present, tl.cast(cut.row_count, tl.int64) * HEAD.WIDTH, dim, HEAD.WIDTH,
        )  # fmt: skip
        prompt = prompt * shrink[:, None] + tl.sum(values, 1)
        prompt_sum = prompt_sum * shrink + tl.sum(total * factor, 1)
        prompt_max = new_max
    # Both. A padding row sees no prompt column, so no knowledge either, and may hold NaN. The prompt's own maximum
    # tells: its sum, rescaled to the joint maximum, underflows where knowledge scores are far above the prompt's. Of a
    # call without a prompt every row is one that sees.
    highest = tl.maximum(knowledge_max, prompt_max)
    sees = tl.where(knowledge_splits == splits, knowledge_max, prompt_max) > float("-inf")
    of_prompt, of_knowledge = (
        tl.math.exp2(prompt_max - finite(highest)), tl.math.exp2(knowledge_max - finite(highest))
    )  # fmt: skip
    all_of_it = prompt_sum * of_prompt + knowledge_sum * of_knowledge
    of_prompt, of_knowledge = of_prompt / all_of_it, of_knowledge / all_of_it
    split_stride = tl.cast(cut.row_count, tl.int64) * LATENT.WIDTH
    weight_base = weight.data + head.to(tl.int64) * weight.head
    result = zeros(HEAD.SIZE, ROWS)
    for start in range(0, LATENT.WIDTH, LATENT.SIZE):
        column = start + tl.arange(0, LATENT.SIZE)
        pointers = weight_base + dim.to(tl.int64)[:, None] * weight.row + column[None, :]
        w = tl.load(pointers, mask=(dim < HEAD.WIDTH)[:, None] & (column < LATENT.WIDTH)[None, :], other=0.0)
        mixed = zeros(ROWS * GROUPS, LATENT.SIZE).reshape(ROWS, GROUPS, LATENT.SIZE)
        for i in tl.static_range(SPLITS):
            mixed += _values(
                partial_latent + row * LATENT.WIDTH, factors[i], some * SPLITS + i, knowledge_splits, present,
                split_stride, column, LATENT.WIDTH,
            )  # fmt: skip
        latent = tl.sum(mixed, 1) * (of_knowledge * MERGE.VALUE_UNIT)[:, None]
        result = product(w, tl.trans(rounded(latent, w.dtype)), result)  # [SIZE, ROWS]
    b = tl.load(bias + head * HEAD.WIDTH + dim, mask=dim < HEAD.WIDTH, other=0.0).to(tl.float32)
    result = tl.trans(result) + prompt * of_prompt[:, None] + b[None, :] * (knowledge_sum * of_knowledge)[:, None]
    to = output.data + batch * output.batch + head.to(tl.int64) * output.head + new * output.row
    result = rounded(tl.where(sees[:, None], result, 0.0), output.data.dtype.element_ty)
    tl.store(to[:, None] + dim[None, :], result, mask=present[:, None] & (dim < HEAD.WIDTH)[None, :])
    if chunk == 0:
        row_lse = (highest + tl.math.log2(all_of_it)) * LN2
        at = lse.data + batch * lse.batch + head.to(tl.int64) * lse.head + new * lse.row
        tl.store(at, tl.where(sees, row_lse, float("-inf")), mask=present)
