"""Pieces shared by both decode kernels (Triton): attention over one split of columns, and merging the splits.

Decode has few rows and many columns, so columns are cut into splits, one program each. A split's partial result is
its running maximum and sum (base 2) and its weighted values, not yet divided by the sum. Splits have a fixed number
of columns, so a row's result does not depend on the other rows of its batch, bit for bit. Technique: Flash-Decoding
(Dao et al. 2023); fixed split size: "Defeating Nondeterminism in LLM Inference" (He et al. 2025).

Widths are cut into chunks of a power of two, held as tuples of tiles: any head_dim and any latent width.
"""

# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

import triton
import triton.language as tl

from kblam_kernels.common.triton_parts import load_range, product


@triton.jit
def load_tile(
    base,
    first,
    inside,
    stride,
    width,
    ROWS: tl.constexpr,
    FIRST_DIM: tl.constexpr,
    CHUNK: tl.constexpr,
    IS_PADDED: tl.constexpr,
):
    """Rows [first, first + ROWS), columns [FIRST_DIM, FIRST_DIM + CHUNK) of a matrix; 0 where not `inside` [ROWS]."""
    row = tl.arange(0, ROWS)
    dim = FIRST_DIM + tl.arange(0, CHUNK)
    # The 64-bit product is a scalar; only offsets inside the tile are a vector, and they do not change in a loop.
    pointers = (base + tl.cast(first, tl.int64) * stride) + (row.to(tl.int64)[:, None] * stride + dim[None, :])
    mask = inside[:, None]
    if IS_PADDED:
        mask = mask & (dim < width)[None, :]
    return tl.load(pointers, mask=mask, other=0.0)  # [ROWS, CHUNK]


@triton.jit
def gather_rows(pointers, present, width, CHUNKS: tl.constexpr, CHUNK: tl.constexpr, IS_PADDED: tl.constexpr):
    """Tuple of tiles [ROWS, CHUNK]: the rows that start at `pointers` [ROWS], 0 where not `present`."""
    tiles = ()
    for i in tl.static_range(CHUNKS):
        dim = i * CHUNK + tl.arange(0, CHUNK)
        mask = present[:, None]
        if IS_PADDED:
            mask = mask & (dim < width)[None, :]
        tiles += (tl.load(pointers[:, None] + dim[None, :], mask=mask, other=0.0),)
    return tiles


@triton.jit
def no_values(ROWS: tl.constexpr, CHUNKS: tl.constexpr, CHUNK: tl.constexpr):
    """Tuple of zeros [ROWS, CHUNK]."""
    acc = ()
    for _ in tl.static_range(CHUNKS):
        acc += (tl.zeros([ROWS, CHUNK], dtype=tl.float32),)
    return acc


@triton.jit
def scores_of(
    query,
    key_base,
    first,
    inside,
    stride,
    width,
    BLOCK: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
    IS_PADDED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """query @ key.T for one tile of columns; `query` is a tuple of chunks."""
    score = tl.zeros([query[0].shape[0], BLOCK], dtype=tl.float32)
    for i in tl.static_range(CHUNKS):
        tile = load_tile(key_base, first, inside, stride, width, BLOCK, i * CHUNK, CHUNK, IS_PADDED)
        score = product(query[i], tl.trans(tile), score, PRECISION)
    return score  # [ROWS, BLOCK]


@triton.jit
def weigh(row_max, row_sum, score):
    """exp2(score - new maximum), the factor that rescales older sums to it, the new maximum and the new sum."""
    new_max = tl.maximum(row_max, tl.max(score, 1))  # [ROWS]
    # A row that has seen nothing keeps -inf; subtracting it from itself would be NaN.
    safe_max = tl.where(new_max == float("-inf"), 0.0, new_max)
    p = tl.math.exp2(score - safe_max[:, None])  # [ROWS, BLOCK]
    shrink = tl.math.exp2(row_max - safe_max)
    return p, shrink, new_max, row_sum * shrink + tl.sum(p, 1)


@triton.jit
def take_in(
    acc,
    row_max,
    row_sum,
    score,
    value_base,
    first,
    inside,
    stride,
    width,
    BLOCK: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
    IS_PADDED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One online-softmax step with base-2 scores [ROWS, BLOCK], -inf where hidden."""
    p, shrink, row_max, row_sum = weigh(row_max, row_sum, score)
    weights = p.to(value_base.dtype.element_ty)
    grown = ()
    for i in tl.static_range(CHUNKS):
        tile = load_tile(value_base, first, inside, stride, width, BLOCK, i * CHUNK, CHUNK, IS_PADDED)
        grown += (product(weights, tile, acc[i] * shrink[:, None], PRECISION),)
    return grown, row_max, row_sum


@triton.jit
def store_statistics(states, row_max, row_sum, row, stored, split, splits):
    """Writes maximum and sum of one split's rows at (row, split); -inf and 0 mean that it saw nothing."""
    at = row.to(tl.int64) * splits + split
    tl.store(states.maximum + at, row_max, mask=stored)
    tl.store(states.total + at, row_sum, mask=stored)


@triton.jit
def store_values(
    partial,
    acc,
    row_max,
    row,
    present,
    row_stride,
    width,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
    IS_PADDED: tl.constexpr,
):
    """Writes the weighted values of one split's rows. Rows that saw nothing are neither written nor read."""
    stored = present & (row_max > float("-inf"))
    for i in tl.static_range(CHUNKS):
        dim = i * CHUNK + tl.arange(0, CHUNK)
        mask = stored[:, None]
        if IS_PADDED:
            mask = mask & (dim < width)[None, :]
        tl.store(partial + row.to(tl.int64)[:, None] * row_stride + dim[None, :], acc[i], mask=mask)


@triton.jit
def range_of_split(split, knowledge_range, range_stride, sizes, cut, group, BLOCK_M: tl.constexpr):
    """[start, stop) of a split, in whole tiles, and the first token that its rows see."""
    start = split * cut.split_size
    first_seen = start
    stop = tl.minimum(start + cut.split_size, sizes.M)
    if knowledge_range is not None:
        range_start, range_end = load_range(
            knowledge_range.data + group * range_stride, knowledge_range.column, sizes.M
        )
        stop = tl.minimum(stop, range_end)
        first_seen = tl.maximum(start, range_start)
        # Tiles are counted from the split's start for every range: a range hides columns but moves no sum.
        start += tl.minimum(first_seen - start, cut.split_size) // BLOCK_M * BLOCK_M
    return start, first_seen, stop


@triton.jit
def prompt_split(
    program,
    query,
    key,
    value,
    prompt_mask,
    mask_batch_stride,
    partial,
    states,
    sizes,
    cut,
    window,
    scale,
    HEAD_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLIT: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    IS_PADDED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The query heads of one key head against one split of the prompt; `scale` has log2(e) folded in."""
    N, T = sizes.N, sizes.T
    row_tile = program % cut.prompt_row_tiles
    kv_head = program // cut.prompt_row_tiles % sizes.Hkv
    batch = (program // (cut.prompt_row_tiles * sizes.Hkv) % sizes.B).to(tl.int64)
    split = program // (cut.prompt_row_tiles * sizes.Hkv * sizes.B)
    local = row_tile * ROWS + tl.arange(0, ROWS)
    present = local < GROUP * N
    head = kv_head * GROUP + local // N
    new = local % N
    rows_base = query.data + batch * query.batch
    rows_base += head.to(tl.int64) * query.head + new.to(tl.int64) * query.row
    q = gather_rows(rows_base, present, HEAD_DIM, CHUNKS, CHUNK, IS_PADDED)
    key_base = key.data + batch * key.batch + kv_head.to(tl.int64) * key.head
    value_base = value.data + batch * value.batch + kv_head.to(tl.int64) * value.head
    if prompt_mask is not None:
        mask_base = prompt_mask.data + batch * mask_batch_stride
    position = T - N + new  # [ROWS]
    start = split * SPLIT
    stop = tl.minimum(start + SPLIT, T)
    if window is not None:
        # Whole tiles that the first new token no longer sees are not read.
        start = tl.maximum(start, tl.maximum(T - N + 1 - window, 0) // BLOCK * BLOCK)
    acc = no_values(ROWS, CHUNKS, CHUNK)
    row_max = tl.full([ROWS], float("-inf"), dtype=tl.float32)
    row_sum = tl.zeros([ROWS], dtype=tl.float32)
    for first in range(start, stop, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = column < stop
        if prompt_mask is not None:
            inside = inside & (tl.load(mask_base + column * prompt_mask.column, mask=inside, other=0) != 0)
        score = scores_of(q, key_base, first, inside, key.row, HEAD_DIM, BLOCK, CHUNKS, CHUNK, IS_PADDED, PRECISION)
        visible = inside[None, :] & (column[None, :] <= position[:, None])  # [ROWS, BLOCK]
        if window is not None:
            visible = visible & (column[None, :] > position[:, None] - window)
        score = tl.where(visible, score * scale, float("-inf"))
        acc, row_max, row_sum = take_in(
            acc, row_max, row_sum, score, value_base, first, inside, value.row, HEAD_DIM,
            BLOCK, CHUNKS, CHUNK, IS_PADDED, PRECISION,
        )  # fmt: skip
    row = (batch * sizes.Hq + head) * N + new
    store_statistics(states, row_max, row_sum, row, present, cut.knowledge_splits + split, cut.splits)
    partial_base = partial + split.to(tl.int64) * cut.row_count * HEAD_DIM
    store_values(partial_base, acc, row_max, row, present, HEAD_DIM, HEAD_DIM, CHUNKS, CHUNK, IS_PADDED)


@triton.jit
def sums_of(maximum, total, highest, first, end, BLOCK: tl.constexpr):
    """Sum of the splits' totals, rescaled to one maximum."""
    summed = 0.0
    for start in range(first, end, BLOCK):
        split = start + tl.arange(0, BLOCK)
        level = tl.load(maximum + split, mask=split < end, other=float("-inf"))
        weight = tl.math.exp2(level - highest)
        summed += tl.sum(weight * tl.load(total + split, mask=split < end, other=0.0), 0)
    return summed


@triton.jit
def highest_of(maximum, first, end, BLOCK: tl.constexpr):
    """The largest of the maxima of splits [first, end); -inf when none of them saw anything."""
    highest = float("-inf")
    for start in range(first, end, BLOCK):
        split = start + tl.arange(0, BLOCK)
        level = tl.load(maximum + split, mask=split < end, other=float("-inf"))
        highest = tl.maximum(highest, tl.max(level, 0))
    return highest


@triton.jit
def levels_of(maximum, knowledge_splits, splits, BLOCK: tl.constexpr):
    """The largest maximum of a row's splits, 0 in place of -inf, and whether the row sees a prompt column.

    Whether it sees one is decided from the prompt's own maximum: the prompt's sum, rescaled to the joint maximum,
    underflows where knowledge scores are far above the prompt's.
    """
    of_prompt = highest_of(maximum, knowledge_splits, splits, BLOCK)
    highest = tl.maximum(highest_of(maximum, 0, knowledge_splits, BLOCK), of_prompt)
    # -inf minus -inf would be NaN.
    return tl.where(highest == float("-inf"), 0.0, highest), of_prompt > float("-inf")


@triton.jit
def mix_of(
    partial,
    maximum,
    highest,
    first,
    end,
    split_stride,
    column,
    width,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Weighted values of splits [first, end), rescaled to one maximum: columns `column` [COLUMNS]."""
    acc = tl.zeros([COLUMNS], dtype=tl.float32)
    for start in range(first, end, BLOCK):
        split = start + tl.arange(0, BLOCK)
        level = tl.load(maximum + split, mask=split < end, other=float("-inf"))
        weight = tl.math.exp2(level - highest)  # [BLOCK]
        pointers = partial + split.to(tl.int64)[:, None] * split_stride + column[None, :]
        mask = (level > float("-inf"))[:, None] & (column < width)[None, :]
        acc += tl.sum(weight[:, None] * tl.load(pointers, mask=mask, other=0.0), 0)
    return acc  # [COLUMNS]
