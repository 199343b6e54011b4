"""The two kernels of dense decode (Triton): splits of the knowledge and of the prompt, then their merge.

What `triton_decode.forward` launches; the pieces shared with latent decode are in `triton_split.py`.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from kblam_kernels.rectangular.triton_parts import LOG2E, load_range
from kblam_kernels.rectangular.triton_split import (
    LN2,
    gather_rows,
    levels_of,
    mix_of,
    no_values,
    prompt_split,
    scores_of,
    store_statistics,
    store_values,
    sums_of,
    take_in,
)


@triton.jit
def _knowledge_split(
    program,
    knowledge_key,
    knowledge_value,
    knowledge_query,
    bias,
    knowledge_range,
    partial,
    maximum,
    total,
    knowledge_key_batch_stride,
    knowledge_key_head_stride,
    knowledge_key_row_stride,
    knowledge_value_batch_stride,
    knowledge_value_head_stride,
    knowledge_value_row_stride,
    knowledge_query_batch_stride,
    knowledge_query_head_stride,
    knowledge_query_row_stride,
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
    HEAD_DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    IS_PADDED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RANGE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A row tile of one head against one split of its knowledge."""
    # Neighbouring programs read the same split, so that they meet in L2.
    row_tile = program % row_tiles
    head = (program // row_tiles % Hq).to(tl.int64)
    group = (program // (row_tiles * Hq) % groups).to(tl.int64)
    split = program // (row_tiles * Hq * groups)
    local = row_tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    present = local < rows
    # Rows of a group are counted (batch, query).
    batch = (group * rows + local) // N
    new = local % N
    rows_base = knowledge_query + batch * knowledge_query_batch_stride
    rows_base += head * knowledge_query_head_stride + new.to(tl.int64) * knowledge_query_row_stride
    r = gather_rows(rows_base, present, HEAD_DIM, CHUNKS, CHUNK, IS_PADDED)
    key_base = knowledge_key + group * knowledge_key_batch_stride + head * knowledge_key_head_stride
    value_base = knowledge_value + group * knowledge_value_batch_stride + head * knowledge_value_head_stride
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
        bias_base = bias + group * bias_batch_stride
    acc = no_values(BLOCK_ROWS, CHUNKS, CHUNK)
    row_max = tl.full([BLOCK_ROWS], float("-inf"), dtype=tl.float32)
    row_sum = tl.zeros([BLOCK_ROWS], dtype=tl.float32)
    for first in range(start, stop, BLOCK_M):
        token = first + tl.arange(0, BLOCK_M)
        inside = (token >= first_seen) & (token < stop)
        score = scores_of(
            r, key_base, first, inside, knowledge_key_row_stride, HEAD_DIM, BLOCK_M, CHUNKS, CHUNK, IS_PADDED, PRECISION
        )
        score = score * scale
        if HAS_BIAS:
            pointers = bias_base + token.to(tl.int64) * bias_token_stride
            score += tl.load(pointers, mask=inside, other=float("-inf"))[None, :] * LOG2E
        else:
            score = tl.where(inside[None, :], score, float("-inf"))
        acc, row_max, row_sum = take_in(
            acc, row_max, row_sum, score, value_base, first, inside, knowledge_value_row_stride, HEAD_DIM,
            BLOCK_M, CHUNKS, CHUNK, IS_PADDED, PRECISION,
        )  # fmt: skip
    row = (batch * Hq + head) * N + new
    store_statistics(maximum, total, row_max, row_sum, row, present, split, splits)
    partial_base = partial + split.to(tl.int64) * row_count * HEAD_DIM
    store_values(partial_base, acc, row_max, row, present, HEAD_DIM, HEAD_DIM, CHUNKS, CHUNK, IS_PADDED)


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
def rectangular_decode_kernel(
    query,
    key,
    value,
    knowledge_key,
    knowledge_value,
    knowledge_query,
    bias,
    prompt_mask,
    knowledge_range,
    partial,
    maximum,
    total,
    query_batch_stride,
    query_head_stride,
    query_row_stride,
    key_batch_stride,
    key_head_stride,
    key_row_stride,
    value_batch_stride,
    value_head_stride,
    value_row_stride,
    knowledge_key_batch_stride,
    knowledge_key_head_stride,
    knowledge_key_row_stride,
    knowledge_value_batch_stride,
    knowledge_value_head_stride,
    knowledge_value_row_stride,
    knowledge_query_batch_stride,
    knowledge_query_head_stride,
    knowledge_query_row_stride,
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
    HEAD_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    PROMPT_ROWS: tl.constexpr,
    PROMPT_BLOCK: tl.constexpr,
    PROMPT_SPLIT: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    IS_PADDED: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_RANGE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program: a row tile against one split of the knowledge, or of the prompt. `scale` has log2(e) folded in.

    `rows` queries of a head share a list, its range and its bias, and form one of `groups`.
    """
    program = tl.program_id(0)
    if program < knowledge_programs:
        _knowledge_split(
            program, knowledge_key, knowledge_value, knowledge_query, bias, knowledge_range, partial, maximum, total,
            knowledge_key_batch_stride, knowledge_key_head_stride, knowledge_key_row_stride,
            knowledge_value_batch_stride, knowledge_value_head_stride, knowledge_value_row_stride,
            knowledge_query_batch_stride, knowledge_query_head_stride, knowledge_query_row_stride,
            bias_batch_stride, bias_token_stride, range_batch_stride, range_end_stride,
            Hq, N, M, rows, row_count, row_tiles, groups, splits, split_size, scale,
            HEAD_DIM, BLOCK_ROWS, BLOCK_M, CHUNK, CHUNKS, IS_PADDED, HAS_BIAS, HAS_RANGE, PRECISION,
        )  # fmt: skip
    else:
        prompt_split(
            program - knowledge_programs, query, key, value, prompt_mask,
            partial + knowledge_splits.to(tl.int64) * row_count * HEAD_DIM, maximum, total,
            query_batch_stride, query_head_stride, query_row_stride, key_batch_stride, key_head_stride, key_row_stride,
            value_batch_stride, value_head_stride, value_row_stride, mask_batch_stride, mask_column_stride,
            B, Hq, Hkv, N, T, window, row_count, prompt_row_tiles, knowledge_splits, splits, scale,
            HEAD_DIM, GROUP, PROMPT_ROWS, PROMPT_BLOCK, PROMPT_SPLIT, CHUNK, CHUNKS, IS_PADDED,
            HAS_MASK, HAS_WINDOW, PRECISION,
        )  # fmt: skip


@triton.jit(do_not_specialize=["Hq", "N", "row_count", "knowledge_splits", "splits"])
def rectangular_merge_kernel(
    partial,
    maximum,
    total,
    output,
    lse,
    output_batch_stride,
    output_head_stride,
    output_row_stride,
    Hq,
    N,
    row_count,
    knowledge_splits,
    splits,
    HEAD_DIM: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """One program: one row's splits brought together, for BLOCK_COLUMNS of its output."""
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    maximum += row.to(tl.int64) * splits
    total += row.to(tl.int64) * splits
    # A padding row sees no prompt column, so it sees no knowledge either.
    highest, sees = levels_of(maximum, knowledge_splits, splits, BLOCK_SPLITS)
    summed = sums_of(maximum, total, highest, 0, splits, BLOCK_SPLITS)
    mixed = mix_of(
        partial + row.to(tl.int64) * HEAD_DIM, maximum, highest, 0, splits, tl.cast(row_count, tl.int64) * HEAD_DIM,
        column, HEAD_DIM, BLOCK_SPLITS, BLOCK_COLUMNS,
    )  # fmt: skip
    result = mixed * tl.where(sees, 1.0 / summed, 0.0)
    output += (row // (N * Hq)).to(tl.int64) * output_batch_stride + (row // N % Hq).to(tl.int64) * output_head_stride
    output += (row % N).to(tl.int64) * output_row_stride
    tl.store(output + column, result.to(output.dtype.element_ty), mask=column < HEAD_DIM)
    if tl.program_id(1) == 0:
        tl.store(lse + row, tl.where(sees, (highest + tl.math.log2(summed)) * LN2, float("-inf")))
