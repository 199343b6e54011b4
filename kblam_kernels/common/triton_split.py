"""Pieces shared by both decode kernels (Triton): attention over one split of columns, and merging the splits.

The READMEs of dense/ and latent/ say how they work. Technique: Flash-Decoding (Dao et al. 2023); fixed split size:
"Defeating Nondeterminism in LLM Inference" (He et al. 2025). Scores are in powers of two. Widths are cut into chunks of
a power of two (`Chunks`), held as tuples of tiles: any head_dim and any latent width.
"""

# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

import triton
import triton.language as tl

from kblam_kernels.common.triton_parts import INTERPRETED, load_range, product, unseen, zeros


@triton.jit
def load_tile(base, first, inside, stride, width, FIRST_DIM: tl.constexpr, CHUNKS: tl.constexpr, ROWS: tl.constexpr):
    """Rows [first, first + ROWS) and one chunk of columns, from FIRST_DIM, of a matrix; 0 where not `inside` [ROWS]."""
    row = tl.arange(0, ROWS)
    dim = FIRST_DIM + tl.arange(0, CHUNKS.SIZE)
    # The 64-bit product is a scalar; only offsets inside the tile are a vector, and they do not change in a loop.
    pointers = (base + tl.cast(first, tl.int64) * stride) + (row.to(tl.int64)[:, None] * stride + dim[None, :])
    mask = inside[:, None]
    if CHUNKS.IS_PADDED:
        mask = mask & (dim < width)[None, :]
    return tl.load(pointers, mask=mask, other=0.0)  # [ROWS, SIZE]


@triton.jit
def gather_rows(pointers, present, width, COUNT: tl.constexpr, CHUNKS: tl.constexpr):
    """Tuple of COUNT tiles [ROWS, SIZE]: the rows that start at `pointers` [ROWS], 0 where not `present`."""
    tiles = ()
    for i in tl.static_range(COUNT):
        dim = i * CHUNKS.SIZE + tl.arange(0, CHUNKS.SIZE)
        mask = present[:, None]
        if CHUNKS.IS_PADDED:
            mask = mask & (dim < width)[None, :]
        tiles += (tl.load(pointers[:, None] + dim[None, :], mask=mask, other=0.0),)
    return tiles


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
def scores_of(query, key_base, first, inside, stride, CHUNKS: tl.constexpr, BLOCK: tl.constexpr):
    """query @ key.T for one tile of columns; `query` is a tuple of chunks."""
    score = zeros(query[0].shape[0], BLOCK)
    COUNT: tl.constexpr = CHUNKS.COUNT
    for i in tl.static_range(COUNT):
        tile = load_tile(key_base, first, inside, stride, CHUNKS.WIDTH, i * CHUNKS.SIZE, CHUNKS, BLOCK)
        score = product(query[i], tl.trans(as_numbers(tile, query[i].dtype)), score)
    return score  # [ROWS, BLOCK]


@triton.jit
def nothing_seen(ROWS: tl.constexpr, CHUNKS: tl.constexpr):
    """Where an online softmax starts: a tuple of zeros [ROWS, SIZE], the running maximum and the running sum [ROWS]."""
    acc = ()
    COUNT: tl.constexpr = CHUNKS.COUNT
    for _ in tl.static_range(COUNT):
        acc += (zeros(ROWS, CHUNKS.SIZE),)
    row_max, row_sum = unseen(ROWS)
    return acc, row_max, row_sum


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
def take_in(acc, weights, shrink, value_base, first, inside, stride, width, CHUNKS: tl.constexpr, BLOCK: tl.constexpr):
    """acc * shrink + weights @ value, chunk by chunk of the tuple `acc`."""
    grown = ()
    COUNT: tl.constexpr = CHUNKS.COUNT
    for i in tl.static_range(COUNT):
        tile = load_tile(value_base, first, inside, stride, width, i * CHUNKS.SIZE, CHUNKS, BLOCK)
        grown += (product(weights, as_numbers(tile, weights.dtype), acc[i] * shrink[:, None]),)
    return grown


@triton.jit
def store_statistics(states, row_max, row_sum, row, stored, split, splits):
    """Writes maximum and sum of one split's rows at (row, split); -inf and 0 mean that it saw nothing."""
    at = row.to(tl.int64) * splits + split
    tl.store(states.maximum + at, row_max, mask=stored)
    tl.store(states.total + at, row_sum, mask=stored)


@triton.jit
def store_values(partial, acc, row_max, row, present, row_stride, width, CHUNKS: tl.constexpr):
    """Writes the weighted values of one split's rows. Rows that saw nothing are neither written nor read."""
    stored = present & (row_max > float("-inf"))
    COUNT: tl.constexpr = CHUNKS.COUNT
    for i in tl.static_range(COUNT):
        dim = i * CHUNKS.SIZE + tl.arange(0, CHUNKS.SIZE)
        mask = stored[:, None]
        if CHUNKS.IS_PADDED:
            mask = mask & (dim < width)[None, :]
        tl.store(partial + row.to(tl.int64)[:, None] * row_stride + dim[None, :], acc[i], mask=mask)


@triton.jit
def range_of_split(split, knowledge_range, strides, sizes, cut, group, BLOCK_M: tl.constexpr):
    """[start, stop) of a split, in whole tiles, and the first token that its rows see."""
    start = split * cut.split_size
    first_seen = start
    stop = tl.minimum(start + cut.split_size, sizes.M)
    if knowledge_range is not None:
        range_base = knowledge_range.data + group * strides.range
        range_start, range_end = load_range(range_base, knowledge_range.column, sizes.M)
        start += cut.is_spanned * range_start
        stop = tl.minimum(start + cut.split_size, range_end)
        first_seen = tl.maximum(start, range_start)
        # Tiles are counted from the split's start for every range: a range of the whole list hides columns but moves no
        # sum.
        start += tl.minimum(first_seen - start, cut.split_size) // BLOCK_M * BLOCK_M
    return start, first_seen, stop


@triton.jit
def prompt_split(
    program, prompt, partial, states, strides, sizes, cut, window, scale, PROMPT: tl.constexpr, HEAD: tl.constexpr
):
    """The query heads of one key head against one split of the prompt."""
    N, T = sizes.N, sizes.T
    query, key, value, mask = prompt.query, prompt.key, prompt.value, prompt.mask
    row_tile = program % cut.prompt_row_tiles
    kv_head = program // cut.prompt_row_tiles % sizes.Hkv
    batch = (program // (cut.prompt_row_tiles * sizes.Hkv) % sizes.B).to(tl.int64)
    split = program // (cut.prompt_row_tiles * sizes.Hkv * sizes.B)
    local = row_tile * PROMPT.ROWS + tl.arange(0, PROMPT.ROWS)
    present = local < PROMPT.GROUP * N
    head = kv_head * PROMPT.GROUP + local // N
    new = local % N
    rows_base = query.data + batch * query.batch
    rows_base += head.to(tl.int64) * query.head + new.to(tl.int64) * query.row
    q = gather_rows(rows_base, present, HEAD.WIDTH, HEAD.COUNT, HEAD)
    key_base = key.data + batch * key.batch + kv_head.to(tl.int64) * key.head
    value_base = value.data + batch * value.batch + kv_head.to(tl.int64) * value.head
    if mask is not None:
        mask_base = mask.data + batch * strides.mask
    position = T - N + new  # [ROWS]
    start = split * PROMPT.SPLIT
    stop = tl.minimum(start + PROMPT.SPLIT, T)
    if window is not None:
        # Whole tiles that the first new token no longer sees are not read.
        start = tl.maximum(start, tl.maximum(T - N + 1 - window, 0) // PROMPT.BLOCK * PROMPT.BLOCK)
    acc, row_max, row_sum = nothing_seen(PROMPT.ROWS, HEAD)
    for first in range(start, stop, PROMPT.BLOCK):
        column = first + tl.arange(0, PROMPT.BLOCK)
        inside = column < stop
        if mask is not None:
            inside = inside & (tl.load(mask_base + column * mask.column, mask=inside, other=0) != 0)
        score = scores_of(q, key_base, first, inside, key.row, HEAD, PROMPT.BLOCK)
        visible = inside[None, :] & (column[None, :] <= position[:, None])  # [ROWS, BLOCK]
        if window is not None:
            visible = visible & (column[None, :] > position[:, None] - window)
        p, shrink, row_max, row_sum = weigh(row_max, row_sum, tl.where(visible, score * scale, float("-inf")))
        weights = p.to(value.data.dtype.element_ty)
        acc = take_in(acc, weights, shrink, value_base, first, inside, value.row, HEAD.WIDTH, HEAD, PROMPT.BLOCK)
    row = (batch * sizes.Hq + head) * N + new
    store_statistics(states, row_max, row_sum, row, present, cut.knowledge_splits + split, cut.splits)
    partial_base = partial + split.to(tl.int64) * cut.row_count * HEAD.WIDTH
    store_values(partial_base, acc, row_max, row, present, HEAD.WIDTH, HEAD.WIDTH, HEAD)


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

    A padding row sees none, so no knowledge either, and may hold NaN. The prompt's own maximum tells: its sum, rescaled
    to the joint maximum, underflows where knowledge scores are far above the prompt's. Of a call without a prompt every
    row is one that sees.
    """
    of_prompt = highest_of(maximum, knowledge_splits, splits, BLOCK)
    highest = tl.maximum(highest_of(maximum, 0, knowledge_splits, BLOCK), of_prompt)
    decides = tl.where(knowledge_splits == splits, highest, of_prompt)
    # -inf minus -inf would be NaN.
    return tl.where(highest == float("-inf"), 0.0, highest), decides > float("-inf")


@triton.jit
def mix_of(partial, maximum, highest, splits, split_stride, column, width, BLOCK: tl.constexpr):
    """Weighted values of splits, rescaled to one maximum: columns `column` [COLUMNS]."""
    acc = tl.zeros(column.shape, dtype=tl.float32)
    for start in range(0, splits, BLOCK):
        split = start + tl.arange(0, BLOCK)
        level = tl.load(maximum + split, mask=split < splits, other=float("-inf"))
        weight = tl.math.exp2(level - highest)  # [BLOCK]
        pointers = partial + split.to(tl.int64)[:, None] * split_stride + column[None, :]
        mask = (level > float("-inf"))[:, None] & (column < width)[None, :]
        acc += tl.sum(weight[:, None] * tl.load(pointers, mask=mask, other=0.0), 0)
    return acc  # [COLUMNS]
