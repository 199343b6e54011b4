"""Both ends of latent decode (Triton): queries absorb the key projection; splits merge, and values are projected."""

# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

import triton
import triton.language as tl

from kblam_kernels.common.call import Sizes
from kblam_kernels.common.launch import Cut
from kblam_kernels.common.triton_parts import LN2, finite, product, received, rounded, unseen, zeros


@triton.jit(do_not_specialize=["sizes"])
def latent_absorb_kernel(
    query,
    weight,
    bias,
    absorbed,
    constant,
    sizes,
    LATENT: tl.constexpr,
    HEAD: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    """One program: some rows of one head through one chunk of the columns of its key weight.

    Rows of a head are counted (batch, query), those of the results (batch, head, query).
    """
    sizes = Sizes(*received(sizes))
    N = sizes.N
    row_tile, head, chunk = tl.program_id(0), tl.program_id(1), tl.program_id(2)
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


@triton.jit
def _levels(states, row, place, last, present):
    """Maximum and sum of some splits `place` [SPLITS] of rows, [ROWS, SPLITS]: -inf and 0 from split `last` on."""
    mask = present[:, None] & (place < last)[None, :]
    at = row[:, None] + place[None, :]
    level = tl.load(states.maximum + at, mask=mask, other=float("-inf"))
    return level, tl.load(states.total + at, mask=mask, other=0.0)


@triton.jit
def _values(partial, level, highest, place, split_stride, column, width):
    """Weighted values of some splits, rescaled to one maximum: [ROWS, SPLITS, COLUMNS]."""
    mask = (level > float("-inf"))[:, :, None] & (column < width)[None, None, :]
    pointers = partial[:, None, None] + (place.to(tl.int64) * split_stride)[None, :, None] + column[None, None, :]
    return tl.load(pointers, mask=mask, other=0.0) * tl.math.exp2(level - highest[:, None])[:, :, None]


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
):
    """One program: merges the splits of some rows of one head and projects them, for one chunk of its columns.

    The splits of a group are added one after the other, as a program that folds a group adds them, then the groups.
    """
    sizes = Sizes(*received(sizes))
    cut = Cut(*received(cut))
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
    # The prompt: splits in any number.
    prompt_max, prompt_sum = unseen(ROWS)
    for start in range(knowledge_splits, splits, GROUPS):
        level, _ = _levels(states, states_row, start + some, splits, present)
        prompt_max = tl.maximum(prompt_max, tl.max(level, 1))
    safe_prompt = finite(prompt_max)
    prompt = zeros(ROWS, HEAD.SIZE)
    for start in range(knowledge_splits, splits, GROUPS):
        level, total = _levels(states, states_row, start + some, splits, present)
        prompt_sum += tl.sum(total * tl.math.exp2(level - safe_prompt[:, None]), 1)
        values = _values(
            partial_prompt + row * HEAD.WIDTH, level, safe_prompt, start - knowledge_splits + some,
            tl.cast(cut.row_count, tl.int64) * HEAD.WIDTH, dim, HEAD.WIDTH,
        )  # fmt: skip
        prompt += tl.sum(values, 1)
    # The knowledge: GROUPS groups, whose splits are already folded, or `in_group` splits each.
    in_group = SPLITS // cut.folded
    knowledge_max, _ = unseen(ROWS)
    for i in tl.static_range(SPLITS):
        last = tl.where(i < in_group, knowledge_splits, 0)
        level, _ = _levels(states, states_row, some * in_group + i, last, present)
        knowledge_max = tl.maximum(knowledge_max, tl.max(level, 1))
    safe_knowledge = finite(knowledge_max)
    totals = zeros(ROWS, GROUPS)
    for i in tl.static_range(SPLITS):
        last = tl.where(i < in_group, knowledge_splits, 0)
        level, total = _levels(states, states_row, some * in_group + i, last, present)
        totals += total * tl.math.exp2(level - safe_knowledge[:, None])
    knowledge_sum = tl.sum(totals, 1)
    # Both. A padding row sees no prompt column, so no knowledge either, and may hold NaN. The prompt's own maximum
    # tells: its sum, rescaled to the joint maximum, underflows where knowledge scores are far above the prompt's. Of a
    # call without a prompt every row is one that sees.
    highest = tl.maximum(knowledge_max, prompt_max)
    sees = tl.where(knowledge_splits == splits, knowledge_max, prompt_max) > float("-inf")
    of_prompt, of_knowledge = (
        tl.math.exp2(prompt_max - finite(highest)), tl.math.exp2(knowledge_max - finite(highest))
    )  # fmt: skip
    summed = prompt_sum * of_prompt + knowledge_sum * of_knowledge
    of_prompt, of_knowledge = of_prompt / summed, of_knowledge / summed
    split_stride = tl.cast(cut.row_count, tl.int64) * LATENT.WIDTH
    weight_base = weight.data + head.to(tl.int64) * weight.head
    result = zeros(HEAD.SIZE, ROWS)
    for start in range(0, LATENT.WIDTH, LATENT.SIZE):
        column = start + tl.arange(0, LATENT.SIZE)
        mixed = zeros(ROWS * GROUPS, LATENT.SIZE).reshape(ROWS, GROUPS, LATENT.SIZE)
        for i in tl.static_range(SPLITS):
            last = tl.where(i < in_group, knowledge_splits, 0)
            level, _ = _levels(states, states_row, some * in_group + i, last, present)
            mixed += _values(
                partial_latent + i * split_stride + row * LATENT.WIDTH, level, safe_knowledge, some * in_group,
                split_stride, column, LATENT.WIDTH,
            )  # fmt: skip
        latent = tl.sum(mixed, 1) * (of_knowledge * MERGE.VALUE_UNIT)[:, None]
        pointers = weight_base + dim.to(tl.int64)[:, None] * weight.row + column[None, :]
        w = tl.load(pointers, mask=(dim < HEAD.WIDTH)[:, None] & (column < LATENT.WIDTH)[None, :], other=0.0)
        result = product(w, tl.trans(rounded(latent, w.dtype)), result)  # [SIZE, ROWS]
    b = tl.load(bias + head * HEAD.WIDTH + dim, mask=dim < HEAD.WIDTH, other=0.0).to(tl.float32)
    result = tl.trans(result) + prompt * of_prompt[:, None] + b[None, :] * (knowledge_sum * of_knowledge)[:, None]
    to = output.data + batch * output.batch + head.to(tl.int64) * output.head + new * output.row
    result = rounded(tl.where(sees[:, None], result, 0.0), output.data.dtype.element_ty)
    tl.store(to[:, None] + dim[None, :], result, mask=present[:, None] & (dim < HEAD.WIDTH)[None, :])
    if chunk == 0:
        row_lse = (highest + tl.math.log2(summed)) * LN2
        at = lse.data + batch * lse.batch + head.to(tl.int64) * lse.head + new * lse.row
        tl.store(at, tl.where(sees, row_lse, float("-inf")), mask=present)
