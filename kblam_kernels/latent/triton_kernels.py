"""The two kernels of latent decode (Triton): splits of the latents and of the prompt, then their merge.

What `triton_decode.forward` launches; the pieces shared with dense decode are in `rectangular/triton_split.py`.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from kblam_kernels.latent.triton_storage import resident_scores, resident_sum, streamed_scores, streamed_sum
from kblam_kernels.rectangular.triton_parts import LOG2E, load_range
from kblam_kernels.rectangular.triton_split import (
    LN2,
    gather_rows,
    levels_of,
    mix_of,
    no_values,
    prompt_split,
    store_statistics,
    store_values,
    sums_of,
    weigh,
)


@triton.jit
def _latent_split(
    program,
    latent_key,
    latent_value,
    norm,
    key_scale,
    value_scale,
    absorbed_query,
    constant,
    bias,
    knowledge_range,
    partial_latent,
    maximum,
    total,
    tiles,
    latent_key_row_stride,
    latent_value_row_stride,
    absorbed_batch_stride,
    absorbed_head_stride,
    absorbed_row_stride,
    bias_batch_stride,
    bias_token_stride,
    range_batch_stride,
    range_end_stride,
    Hq,
    N,
    M,
    rows,
    row_count,
    row_tiles,
    groups,
    splits,
    split_size,
    scale,
    skip_threshold,
    P: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    VALUE_CHUNKS: tl.constexpr,
    VALUE_PARTS: tl.constexpr,
    IS_PADDED: tl.constexpr,
    IS_RESIDENT: tl.constexpr,
    KEY_GAIN: tl.constexpr,
    VALUE_HEADROOM: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    SKIPS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RANGE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A row tile against one split of the latents: for one part of the value columns, or streamed for all."""
    # Neighbouring programs read the same split, so that they meet in L2.
    part = program % VALUE_PARTS
    row_tile = program // VALUE_PARTS % row_tiles
    group = program // (VALUE_PARTS * row_tiles) % groups
    split = program // (VALUE_PARTS * row_tiles * groups)
    local = row_tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    present = local < rows
    row = group * rows + local
    head = row // N % Hq
    rows_base = absorbed_query + (row // (N * Hq)).to(tl.int64) * absorbed_batch_stride
    rows_base += head.to(tl.int64) * absorbed_head_stride + (row % N).to(tl.int64) * absorbed_row_stride
    c = tl.load(constant + row, mask=present, other=0.0)

    start = split * split_size
    first_seen = start
    stop = tl.minimum(start + split_size, M)
    if HAS_RANGE:
        range_start, range_end = load_range(knowledge_range + group * range_batch_stride, range_end_stride, M)
        stop = tl.minimum(stop, range_end)
        first_seen = tl.maximum(start, range_start)
        # Tiles are counted from the split's start whatever the range: it hides columns and moves no sum.
        start += tl.minimum(first_seen - start, split_size) // BLOCK_M * BLOCK_M
    if HAS_BIAS:
        bias_base = bias + group.to(tl.int64) * bias_batch_stride
    partial_base = partial_latent + split.to(tl.int64) * row_count * P
    row_max = tl.full([BLOCK_ROWS], float("-inf"), dtype=tl.float32)
    row_sum = tl.zeros([BLOCK_ROWS], dtype=tl.float32)
    first_column = part * VALUE_CHUNKS * CHUNK
    if IS_RESIDENT:
        a = gather_rows(rows_base, present, P, CHUNKS, CHUNK, IS_PADDED)
        acc = no_values(BLOCK_ROWS, VALUE_CHUNKS, CHUNK)
    seen = tl.zeros([], dtype=tl.int32)
    skipped = tl.zeros([], dtype=tl.int64)
    visited = tl.zeros([], dtype=tl.int64)
    for first in range(start, stop, BLOCK_M):
        token = first + tl.arange(0, BLOCK_M)
        inside = (token >= first_seen) & (token < stop)
        if IS_RESIDENT:
            score = resident_scores(
                a, latent_key, first, inside, latent_key_row_stride, P,
                BLOCK_ROWS, BLOCK_M, CHUNKS, CHUNK, IS_PADDED, PRECISION,
            )  # fmt: skip
        else:
            score = streamed_scores(
                rows_base, present, latent_key, first, inside, latent_key_row_stride,
                BLOCK_ROWS, BLOCK_M, P, CHUNK, IS_PADDED, PRECISION,
            )  # fmt: skip
        if HAS_SCALE:
            score *= (tl.load(key_scale + token, mask=inside, other=0.0) * KEY_GAIN)[None, :]
        score = (score + c[:, None]) * (tl.load(norm + token, mask=inside, other=0.0) * scale)[None, :]
        if HAS_BIAS:
            pointers = bias_base + token.to(tl.int64) * bias_token_stride
            score += tl.load(pointers, mask=inside, other=float("-inf"))[None, :] * LOG2E
        else:
            score = tl.where(inside[None, :], score, float("-inf"))
        p, shrink, row_max, row_sum = weigh(row_max, row_sum, score)
        if SKIPS:
            # Rows past the last one weigh their tokens too, and nobody reads what they sum.
            needed = tl.max(tl.max(tl.where(present[:, None], p, 0.0), 1), 0) >= skip_threshold
            skipped += tl.where(needed, 0, 1)
            visited += 1
        else:
            needed = True
        # The token of a row's largest score weighs 1: in a skipped tile there is none, so no maximum moved.
        if needed:
            if HAS_SCALE:
                p *= (tl.load(value_scale + token, mask=inside, other=0.0) * VALUE_HEADROOM)[None, :]
            weights = p.to(absorbed_query.dtype.element_ty)
            if IS_RESIDENT:
                acc = resident_sum(
                    acc, weights, shrink, latent_value + first_column, first, inside, latent_value_row_stride,
                    P - first_column, BLOCK_M, VALUE_CHUNKS, CHUNK, IS_PADDED, PRECISION,
                )  # fmt: skip
            else:
                streamed_sum(
                    partial_base + row.to(tl.int64) * P, present, weights, shrink, latent_value, first, inside,
                    latent_value_row_stride, seen > 0, BLOCK_M, P, CHUNK, IS_PADDED, PRECISION,
                )  # fmt: skip
            seen += 1
    if SKIPS:
        tl.atomic_add(tiles, skipped, sem="relaxed")
        tl.atomic_add(tiles + 1, visited, sem="relaxed")
    store_statistics(maximum, total, row_max, row_sum, row, present & (part == 0), split, splits)
    if IS_RESIDENT:
        store_values(
            partial_base + first_column, acc, row_max, row, present, P, P - first_column, VALUE_CHUNKS, CHUNK, IS_PADDED
        )


# Lengths, and the numbers of programs that follow from them, are not specialised: a growing cache or knowledge base
# must not compile again.
@triton.jit(
    do_not_specialize=[
        "B",
        "Hq",
        "Hkv",
        "N",
        "T",
        "M",
        "window",
        "rows",
        "row_count",
        "row_tiles",
        "groups",
        "knowledge_programs",
        "knowledge_splits",
        "splits",
        "split_size",
        "prompt_row_tiles",
        "bias_batch_stride",
        "mask_batch_stride",
    ]
)
def latent_decode_kernel(
    query,
    key,
    value,
    latent_key,
    latent_value,
    norm,
    key_scale,
    value_scale,
    absorbed_query,
    constant,
    bias,
    prompt_mask,
    knowledge_range,
    partial_latent,
    partial_prompt,
    maximum,
    total,
    tiles,
    query_batch_stride,
    query_head_stride,
    query_row_stride,
    key_batch_stride,
    key_head_stride,
    key_row_stride,
    value_batch_stride,
    value_head_stride,
    value_row_stride,
    latent_key_row_stride,
    latent_value_row_stride,
    absorbed_batch_stride,
    absorbed_head_stride,
    absorbed_row_stride,
    bias_batch_stride,
    bias_token_stride,
    mask_batch_stride,
    mask_column_stride,
    range_batch_stride,
    range_end_stride,
    B,
    Hq,
    Hkv,
    N,
    T,
    M,
    window,
    rows,
    row_count,
    row_tiles,
    groups,
    knowledge_programs,
    knowledge_splits,
    splits,
    split_size,
    prompt_row_tiles,
    scale,
    skip_threshold,
    P: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    VALUE_CHUNKS: tl.constexpr,
    VALUE_PARTS: tl.constexpr,
    IS_PADDED: tl.constexpr,
    IS_RESIDENT: tl.constexpr,
    KEY_GAIN: tl.constexpr,
    VALUE_HEADROOM: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    SKIPS: tl.constexpr,
    PROMPT_ROWS: tl.constexpr,
    PROMPT_BLOCK: tl.constexpr,
    PROMPT_SPLIT: tl.constexpr,
    DIM_CHUNK: tl.constexpr,
    DIM_CHUNKS: tl.constexpr,
    IS_DIM_PADDED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_RANGE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program: a row tile against one split of the latents, or of the prompt. `scale` has log2(e) folded in.

    Rows are counted (batch, head, query). `rows` of them share a knowledge range and bias, and form one of `groups`.
    """
    program = tl.program_id(0)
    if program < knowledge_programs:
        _latent_split(
            program, latent_key, latent_value, norm, key_scale, value_scale, absorbed_query, constant, bias,
            knowledge_range, partial_latent, maximum, total, tiles, latent_key_row_stride, latent_value_row_stride,
            absorbed_batch_stride, absorbed_head_stride, absorbed_row_stride, bias_batch_stride, bias_token_stride,
            range_batch_stride, range_end_stride, Hq, N, M, rows, row_count, row_tiles, groups, splits, split_size,
            scale, skip_threshold, P, BLOCK_ROWS, BLOCK_M, CHUNK, CHUNKS, VALUE_CHUNKS, VALUE_PARTS, IS_PADDED,
            IS_RESIDENT, KEY_GAIN, VALUE_HEADROOM, HAS_SCALE, SKIPS, HAS_BIAS, HAS_RANGE, PRECISION,
        )  # fmt: skip
    else:
        prompt_split(
            program - knowledge_programs, query, key, value, prompt_mask, partial_prompt, maximum, total,
            query_batch_stride, query_head_stride, query_row_stride, key_batch_stride, key_head_stride, key_row_stride,
            value_batch_stride, value_head_stride, value_row_stride, mask_batch_stride, mask_column_stride,
            B, Hq, Hkv, N, T, window, row_count, prompt_row_tiles, knowledge_splits, splits, scale,
            HEAD_DIM, GROUP, PROMPT_ROWS, PROMPT_BLOCK, PROMPT_SPLIT, DIM_CHUNK, DIM_CHUNKS, IS_DIM_PADDED,
            HAS_MASK, HAS_WINDOW, PRECISION,
        )  # fmt: skip


@triton.jit(do_not_specialize=["Hq", "N", "result_queries", "row_count", "knowledge_splits", "splits"])
def latent_merge_kernel(
    partial_latent,
    partial_prompt,
    maximum,
    total,
    prompt,
    latent,
    share,
    lse,
    latent_batch_stride,
    latent_head_stride,
    latent_row_stride,
    Hq,
    N,
    result_queries,
    row_count,
    knowledge_splits,
    splits,
    P: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    VALUE_UNIT: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """One program: one row's splits brought together, for some columns of `latent` or, after those, of `prompt`.

    The N queries of a head are part of `result_queries` in `prompt`, `share` and `lse`.
    """
    row = tl.program_id(0)
    block = tl.program_id(1)
    maximum += row.to(tl.int64) * splits
    total += row.to(tl.int64) * splits
    # A padding row sees no prompt column, so it sees no knowledge either.
    highest, sees = levels_of(maximum, knowledge_splits, splits, BLOCK_SPLITS)
    of_prompt = sums_of(maximum, total, highest, knowledge_splits, splits, BLOCK_SPLITS)
    of_knowledge = sums_of(maximum, total, highest, 0, knowledge_splits, BLOCK_SPLITS)
    inverse = tl.where(sees, 1.0 / (of_prompt + of_knowledge), 0.0)
    LATENT_BLOCKS: tl.constexpr = (P + BLOCK_COLUMNS - 1) // BLOCK_COLUMNS
    column = tl.arange(0, BLOCK_COLUMNS)
    if block < LATENT_BLOCKS:
        column += block * BLOCK_COLUMNS
        mixed = mix_of(
            partial_latent + row.to(tl.int64) * P, maximum, highest, 0, knowledge_splits,
            tl.cast(row_count, tl.int64) * P, column, P, BLOCK_SPLITS, BLOCK_COLUMNS,
        )  # fmt: skip
        head = (row // N % Hq).to(tl.int64)
        latent += (row // (N * Hq)).to(tl.int64) * latent_batch_stride + head * latent_head_stride
        latent += (row % N).to(tl.int64) * latent_row_stride
        tl.store(latent + column, (mixed * (inverse * VALUE_UNIT)).to(latent.dtype.element_ty), mask=column < P)
    else:
        column += (block - LATENT_BLOCKS) * BLOCK_COLUMNS
        mixed = mix_of(
            partial_prompt + row.to(tl.int64) * HEAD_DIM, maximum + knowledge_splits, highest, 0,
            splits - knowledge_splits, tl.cast(row_count, tl.int64) * HEAD_DIM, column, HEAD_DIM,
            BLOCK_SPLITS, BLOCK_COLUMNS,
        )  # fmt: skip
        # The row of this query among those of the whole call.
        at = (row // N).to(tl.int64) * result_queries + row % N
        tl.store(prompt + at * HEAD_DIM + column, mixed * inverse, mask=column < HEAD_DIM)
        if block == LATENT_BLOCKS:
            tl.store(share + at, of_knowledge * inverse)
            row_lse = (highest + tl.math.log2(of_prompt + of_knowledge)) * LN2
            tl.store(lse + at, tl.where(sees, row_lse, float("-inf")))
