"""The kernel between both ends of latent decode (Triton): splits of the latents.

`triton_decode.forward` launches it; the pieces shared with dense decode are in `common/triton_split.py`. A tile's
products have queries for rows, or tokens first: then a wgmma, which takes 64 rows, is filled by one decode step.
"""

# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

import triton
import triton.language as tl

from kblam_kernels.common.call import Sizes
from kblam_kernels.common.launch import CUT, SIZES, STRIDES, Cut, Strides
from kblam_kernels.common.triton_parts import (
    LOG2E,
    finite,
    let_next_start,
    load_range,
    only_if,
    product,
    rounded,
    unseen,
    wait_for_previous,
    zeros,
)
from kblam_kernels.common.triton_split import as_numbers, gather_rows, load_tile


@triton.jit
def _of_rows(vector, TOKENS: tl.constexpr):
    """A number for each query row, beside scores or sums whose axis TOKENS is of tokens, or of columns."""
    return tl.expand_dims(vector, TOKENS)


@triton.jit
def _of_tokens(vector, TOKENS: tl.constexpr):
    """A number for each token or column, beside the same."""
    return tl.expand_dims(vector, 1 - TOKENS)


@triton.jit
def _nothing(COLUMNS: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr):
    """Zeros: [COLUMNS, ROWS] or [ROWS, COLUMNS]."""
    if TOKENS == 0:
        nothing = zeros(COLUMNS, ROWS)
    else:
        nothing = zeros(ROWS, COLUMNS)
    return nothing


@triton.jit
def _no_sums(CHUNKS: tl.constexpr, TILE: tl.constexpr):
    """Sums of nothing: a tuple of zeros for each chunk of value columns."""
    acc = ()
    COUNT: tl.constexpr = CHUNKS.COUNT
    for _ in tl.static_range(COUNT):
        acc += (_nothing(CHUNKS.SIZE, TILE.BLOCK_ROWS, TILE.TOKENS),)
    return acc


@triton.jit
def _add_scores(score, query, tile, TOKENS: tl.constexpr):
    """score + one chunk of query [ROWS, SIZE] times keys [BLOCK_M, SIZE]."""
    tile = as_numbers(tile, query.dtype)
    if TOKENS == 0:
        score = product(tile, tl.trans(query), score)
    else:
        score = product(query, tl.trans(tile), score)
    return score


@triton.jit
def _add_values(acc, weights, tile, TOKENS: tl.constexpr):
    """acc + weights times values [BLOCK_M, SIZE]."""
    tile = as_numbers(tile, weights.dtype)
    if TOKENS == 0:
        acc = product(tl.trans(tile), weights, acc)
    else:
        acc = product(weights, tile, acc)
    return acc


@triton.jit
def _scores(query, absorbed_rows, present, key, first, inside, LATENT: tl.constexpr, TILE: tl.constexpr):
    """Products of rows and one tile of keys; `query` is a tuple of chunks, or streamed with the keys."""
    score = _nothing(TILE.BLOCK_M, TILE.BLOCK_ROWS, TILE.TOKENS)
    if TILE.IS_RESIDENT:
        COUNT: tl.constexpr = LATENT.COUNT
        for i in tl.static_range(COUNT):
            tile = load_tile(key.data, first, inside, key.row, LATENT.WIDTH, i * LATENT.SIZE, LATENT, TILE.BLOCK_M)
            score = _add_scores(score, query[i], tile, TILE.TOKENS)
    else:
        for start in range(0, LATENT.WIDTH, LATENT.SIZE):
            width = LATENT.WIDTH - start
            chunk = gather_rows(absorbed_rows + start, present, width, 1, LATENT)[0]
            tile = load_tile(key.data + start, first, inside, key.row, width, 0, LATENT, TILE.BLOCK_M)
            score = _add_scores(score, chunk, tile, TILE.TOKENS)
    return score


@triton.jit
def _weigh(row_max, score, TOKENS: tl.constexpr):
    """exp2(score - new maximum), the factor that rescales older sums to it, and the new maximum.

    A maximum is a whole number: sums are then rescaled by powers of two, which rounds nothing, so that it does not
    matter when that is done.
    """
    new_max = tl.maximum(row_max, tl.ceil(tl.max(score, TOKENS)))  # [BLOCK_ROWS]
    safe_max = finite(new_max)
    return tl.math.exp2(score - _of_rows(safe_max, TOKENS)), tl.math.exp2(row_max - safe_max), new_max


@triton.jit
def _take_in(
    acc, weights, shrink, base, first, inside, stride, width, CHUNKS: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """acc * shrink + weights times values, chunk by chunk of the tuple `acc`."""
    grown = ()
    COUNT: tl.constexpr = CHUNKS.COUNT
    for i in tl.static_range(COUNT):
        tile = load_tile(base, first, inside, stride, width, i * CHUNKS.SIZE, CHUNKS, TILE.BLOCK_M)
        grown += (_add_values(acc[i] * _of_rows(shrink, TILE.TOKENS), weights, tile, TILE.TOKENS),)
    return grown


@triton.jit
def _sums_at(partial_rows, present, start, width, CHUNKS: tl.constexpr, TOKENS: tl.constexpr):
    """Where the sums of a chunk of columns lie in this program's part of the scratch memory, and which there are."""
    column = tl.arange(0, CHUNKS.SIZE)
    pointers = (partial_rows + start)[None, :] + column[:, None]
    mask = present[None, :]
    if CHUNKS.IS_PADDED:
        mask = mask & (column < width)[:, None]
    if TOKENS == 1:
        pointers = tl.trans(pointers)
        mask = tl.trans(mask)
    return pointers, mask


@triton.jit
def _take_in_streamed(
    partial_rows, present, weights, shrink, value, first, inside, seen_before, LATENT: tl.constexpr, TILE: tl.constexpr
):
    """`_take_in` where the sums do not fit on the chip: they stay in the scratch memory."""
    for start in range(0, LATENT.WIDTH, LATENT.SIZE):
        width = LATENT.WIDTH - start
        tile = load_tile(value.data + start, first, inside, value.row, width, 0, LATENT, TILE.BLOCK_M)
        pointers, mask = _sums_at(partial_rows, present, start, width, LATENT, TILE.TOKENS)
        # Before the first tile the scratch memory is unwritten and may hold NaN, so it is not read.
        acc = tl.load(pointers, mask=only_if(seen_before, mask), other=0.0) * _of_rows(shrink, TILE.TOKENS)
        tl.store(pointers, _add_values(acc, weights, tile, TILE.TOKENS), mask=mask)
    # Other threads of the program read these sums for the next tile.
    tl.debug_barrier()


@triton.jit
def _folded(old, old_max, old_sum, new, new_max, new_sum, VALUES: tl.constexpr, TOKENS: tl.constexpr):
    """Sums of a group and those of its next split: values, maximum, total."""
    row_max = tl.maximum(old_max, new_max)
    of_old, of_new = tl.math.exp2(old_max - finite(row_max)), tl.math.exp2(new_max - finite(row_max))
    both = ()
    COUNT: tl.constexpr = VALUES.COUNT
    for i in tl.static_range(COUNT):
        both += (old[i] * _of_rows(of_old, TOKENS) + new[i] * _of_rows(of_new, TOKENS),)
    return both, row_max, old_sum * of_old + new_sum * of_new


@triton.jit(do_not_specialize=[*STRIDES, *SIZES, *CUT])
def latent_decode_kernel(
    latents,
    bias,
    knowledge_range,
    partial,
    states,
    strides_bias, strides_range, strides_mask,
    sizes_B, sizes_Hq, sizes_Hkv, sizes_N, sizes_T, sizes_M,
    cut_rows, cut_row_count, cut_row_tiles, cut_groups, cut_knowledge_programs, cut_prompt_programs,
    cut_knowledge_splits, cut_splits, cut_split_size, cut_prompt_row_tiles, cut_is_spanned,
    scale,
    LATENT: tl.constexpr,
    VALUES: tl.constexpr,
    TILE: tl.constexpr,
    CHAINED: tl.constexpr,
):  # fmt: skip
    """One program: a row tile against one split of the latents, or against a group of them, folded one after the other.

    `scale` has log2(e) folded in. Rows are counted (batch, head, query). LATENT and VALUES are `Chunks`: of latents, of
    a program's part of the value columns; streamed, it sums all.
    """
    let_next_start(CHAINED)
    wait_for_previous(CHAINED)
    strides = Strides(strides_bias, strides_range, strides_mask)
    sizes = Sizes(sizes_B, sizes_Hq, sizes_Hkv, sizes_N, sizes_T, sizes_M)
    cut = Cut(
        cut_rows, cut_row_count, cut_row_tiles, cut_groups, cut_knowledge_programs, cut_prompt_programs,
        cut_knowledge_splits, cut_splits, cut_split_size, cut_prompt_row_tiles, cut_is_spanned,
    )  # fmt: skip
    program = tl.program_id(0)
    value = latents.value
    TOKENS: tl.constexpr = TILE.TOKENS
    part = program % TILE.VALUE_PARTS
    row_tile = program // TILE.VALUE_PARTS % cut.row_tiles
    group = program // (TILE.VALUE_PARTS * cut.row_tiles) % cut.groups
    place = program // (TILE.VALUE_PARTS * cut.row_tiles * cut.groups)
    local = row_tile * TILE.BLOCK_ROWS + tl.arange(0, TILE.BLOCK_ROWS)
    present = local < cut.rows
    row = group * cut.rows + local
    absorbed_rows = latents.query + row.to(tl.int64) * LATENT.WIDTH
    c = tl.load(latents.constant + row, mask=present, other=0.0)
    base = place * TILE.FOLDED * cut.split_size
    first_seen, end = base, sizes.M
    if knowledge_range is not None:
        range_base = knowledge_range.data + group * strides.range
        first_seen, end = load_range(range_base, knowledge_range.column, sizes.M)
        base += cut.is_spanned * first_seen
    # Tiles are counted from the start of the first split, whatever the range: a range of the whole list hides columns
    # but moves no sum. A split is whole tiles.
    first_tile = tl.maximum(first_seen - base, 0) // TILE.BLOCK_M
    end_tile = tl.cdiv(tl.minimum(tl.maximum(end - base, 0), TILE.FOLDED * cut.split_size), TILE.BLOCK_M)
    tiles = cut.split_size // TILE.BLOCK_M
    if bias is not None:
        bias_base = bias.data + group.to(tl.int64) * strides.bias
    # Only offsets inside the row tile are a vector.
    partial_rows = partial + tl.cast(place, tl.int64) * cut.row_count * LATENT.WIDTH
    partial_rows += tl.cast(group * cut.rows + row_tile * TILE.BLOCK_ROWS, tl.int64) * LATENT.WIDTH
    partial_rows += tl.arange(0, TILE.BLOCK_ROWS) * LATENT.WIDTH
    first_column = part * VALUES.COUNT * VALUES.SIZE
    row_max, row_sum = unseen(TILE.BLOCK_ROWS)
    group_max, group_sum = unseen(TILE.BLOCK_ROWS)
    query = ()
    acc = ()
    group_acc = ()
    if TILE.IS_RESIDENT:
        query = gather_rows(absorbed_rows, present, LATENT.WIDTH, LATENT.COUNT, LATENT)
        acc = _no_sums(VALUES, TILE)
        if TILE.FOLDED > 1:
            group_acc = _no_sums(VALUES, TILE)
    for i in range(first_tile, end_tile):
        # From the number of the tile alone: what an iteration leaves would be waited for before the next one's loads.
        first = base + i * TILE.BLOCK_M
        token = first + tl.arange(0, TILE.BLOCK_M)
        inside = (token >= first_seen) & (token < end)
        # What scores are scaled and shifted by is loaded before the products: after them it would be waited for.
        norm = tl.load(latents.norm + token, mask=inside, other=0.0) * scale
        if latents.key_scale is not None:
            key_scale = tl.load(latents.key_scale + token, mask=inside, other=0.0) * TILE.KEY_GAIN
        if latents.value_scale is not None:
            value_scale = tl.load(latents.value_scale + token, mask=inside, other=0.0) * TILE.VALUE_HEADROOM
        if bias is not None:
            pointers = bias_base + token.to(tl.int64) * bias.column
            shift = tl.load(pointers, mask=inside, other=float("-inf")) * LOG2E
        score = _scores(query, absorbed_rows, present, latents.key, first, inside, LATENT, TILE)
        if latents.key_scale is not None:
            score *= _of_tokens(key_scale, TOKENS)
        score = (score + _of_rows(c, TOKENS)) * _of_tokens(norm, TOKENS)
        if bias is not None:
            score += _of_tokens(shift, TOKENS)
        else:
            score = tl.where(_of_tokens(inside, TOKENS), score, float("-inf"))
        p, shrink, row_max = _weigh(row_max, score, TOKENS)
        row_sum = row_sum * shrink + tl.sum(p, TOKENS)
        if latents.value_scale is not None:
            p *= _of_tokens(value_scale, TOKENS)
        weights = rounded(p, latents.query.dtype.element_ty)
        if TILE.IS_RESIDENT:
            acc = _take_in(
                acc, weights, shrink, value.data + first_column, first, inside, value.row,
                LATENT.WIDTH - first_column, VALUES, TILE,
            )  # fmt: skip
            # Compiled in, so not one condition with the next.
            if TILE.FOLDED > 1:  # noqa: SIM102
                if (i + 1) % tiles == 0:
                    group_acc, group_max, group_sum = _folded(
                        group_acc, group_max, group_sum, acc, row_max, row_sum, VALUES, TOKENS
                    )
                    acc = _no_sums(VALUES, TILE)
                    row_max, row_sum = unseen(TILE.BLOCK_ROWS)
        else:
            _take_in_streamed(
                partial_rows, present, weights, shrink, value, first, inside, i > first_tile, LATENT, TILE
            )  # fmt: skip
    if TILE.IS_RESIDENT:
        if TILE.FOLDED > 1:
            acc, row_max, row_sum = _folded(group_acc, group_max, group_sum, acc, row_max, row_sum, VALUES, TOKENS)
        # Rows that saw nothing are neither written nor read.
        seen = present & (row_max > float("-inf"))
        COUNT: tl.constexpr = VALUES.COUNT
        for i in tl.static_range(COUNT):
            start = first_column + i * VALUES.SIZE
            pointers, mask = _sums_at(partial_rows, seen, start, LATENT.WIDTH - start, VALUES, TOKENS)
            tl.store(pointers, acc[i], mask=mask)
    at = row.to(tl.int64) * cut.splits + place
    is_first = only_if(part == 0, present)
    tl.store(states.maximum + at, row_max, mask=is_first)
    tl.store(states.total + at, row_sum, mask=is_first)
