"""The two kernels of latent decode (Triton): splits of the latents and of the prompt, then their merge.

`triton_decode.mix` launches them; the pieces shared with dense decode are in `common/triton_split.py`.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from kblam_kernels.common.triton_parts import LN2, LOG2E
from kblam_kernels.common.triton_split import (
    gather_rows,
    levels_of,
    mix_of,
    no_values,
    prompt_split,
    range_of_split,
    store_statistics,
    store_values,
    sums_of,
    weigh,
)
from kblam_kernels.latent.triton_storage import resident_scores, resident_sum, streamed_scores, streamed_sum


@triton.jit
def _latent_split(
    program,
    key,
    value,
    norm,
    key_scale,
    value_scale,
    absorbed_query,
    constant,
    bias,
    knowledge_range,
    bias_batch_stride,
    range_batch_stride,
    partial,
    states,
    sizes,
    cut,
    scale,
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
    PRECISION: tl.constexpr,
):
    """A row tile against one split of the latents: for one part of the value columns, or streamed for all."""
    # Neighbouring programs read the same split, so that it is in L2.
    N, Hq = sizes.N, sizes.Hq
    part = program % VALUE_PARTS
    row_tile = program // VALUE_PARTS % cut.row_tiles
    group = program // (VALUE_PARTS * cut.row_tiles) % cut.groups
    split = program // (VALUE_PARTS * cut.row_tiles * cut.groups)
    local = row_tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    present = local < cut.rows
    row = group * cut.rows + local
    head = row // N % Hq
    rows_base = absorbed_query.data + (row // (N * Hq)).to(tl.int64) * absorbed_query.batch
    rows_base += head.to(tl.int64) * absorbed_query.head + (row % N).to(tl.int64) * absorbed_query.row
    c = tl.load(constant + row, mask=present, other=0.0)
    start, first_seen, stop = range_of_split(split, knowledge_range, range_batch_stride, sizes, cut, group, BLOCK_M)
    if bias is not None:
        bias_base = bias.data + group.to(tl.int64) * bias_batch_stride
    partial_base = partial + split.to(tl.int64) * cut.row_count * P
    row_max = tl.full([BLOCK_ROWS], float("-inf"), dtype=tl.float32)
    row_sum = tl.zeros([BLOCK_ROWS], dtype=tl.float32)
    first_column = part * VALUE_CHUNKS * CHUNK
    if IS_RESIDENT:
        a = gather_rows(rows_base, present, P, CHUNKS, CHUNK, IS_PADDED)
        acc = no_values(BLOCK_ROWS, VALUE_CHUNKS, CHUNK)
    # A counter: comparing with `start` would keep it in a register, and fp8 of 1,536 numbers spills on sm_90.
    seen = tl.zeros([], dtype=tl.int32)
    for first in range(start, stop, BLOCK_M):
        token = first + tl.arange(0, BLOCK_M)
        inside = (token >= first_seen) & (token < stop)
        if IS_RESIDENT:
            score = resident_scores(
                a, key.data, first, inside, key.row, P, BLOCK_ROWS, BLOCK_M, CHUNKS, CHUNK, IS_PADDED, PRECISION
            )
        else:
            score = streamed_scores(
                rows_base, present, key.data, first, inside, key.row,
                BLOCK_ROWS, BLOCK_M, P, CHUNK, IS_PADDED, PRECISION,
            )  # fmt: skip
        if key_scale is not None:
            score *= (tl.load(key_scale + token, mask=inside, other=0.0) * KEY_GAIN)[None, :]
        score = (score + c[:, None]) * (tl.load(norm + token, mask=inside, other=0.0) * scale)[None, :]
        if bias is not None:
            pointers = bias_base + token.to(tl.int64) * bias.column
            score += tl.load(pointers, mask=inside, other=float("-inf"))[None, :] * LOG2E
        else:
            score = tl.where(inside[None, :], score, float("-inf"))
        p, shrink, row_max, row_sum = weigh(row_max, row_sum, score)
        if value_scale is not None:
            p *= (tl.load(value_scale + token, mask=inside, other=0.0) * VALUE_HEADROOM)[None, :]
        weights = p.to(absorbed_query.data.dtype.element_ty)
        if IS_RESIDENT:
            acc = resident_sum(
                acc, weights, shrink, value.data + first_column, first, inside, value.row,
                P - first_column, BLOCK_M, VALUE_CHUNKS, CHUNK, IS_PADDED, PRECISION,
            )  # fmt: skip
        else:
            streamed_sum(
                partial_base + row.to(tl.int64) * P, present, weights, shrink, value.data, first, inside,
                value.row, seen > 0, BLOCK_M, P, CHUNK, IS_PADDED, PRECISION,
            )  # fmt: skip
        seen += 1
    store_statistics(states, row_max, row_sum, row, present & (part == 0), split, cut.splits)
    if IS_RESIDENT:
        store_values(
            partial_base + first_column, acc, row_max, row, present, P, P - first_column, VALUE_CHUNKS, CHUNK, IS_PADDED
        )


@triton.jit(
    do_not_specialize=["sizes", "cut", "window", "bias_batch_stride", "mask_batch_stride", "range_batch_stride"]
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
    states,
    bias_batch_stride,
    mask_batch_stride,
    range_batch_stride,
    sizes,
    cut,
    window,
    scale,
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
    PROMPT_ROWS: tl.constexpr,
    PROMPT_BLOCK: tl.constexpr,
    PROMPT_SPLIT: tl.constexpr,
    DIM_CHUNK: tl.constexpr,
    DIM_CHUNKS: tl.constexpr,
    IS_DIM_PADDED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program: a row tile against one split of the latents, or of the prompt. `scale` has log2(e) folded in.

    Rows are counted (batch, head, query). Tensors are `Heads`, latents `Rows`, bias, mask and range `Columns`; absent
    ones are None.
    """
    program = tl.program_id(0)
    if program < cut.knowledge_programs:
        _latent_split(
            program, latent_key, latent_value, norm, key_scale, value_scale, absorbed_query, constant, bias,
            knowledge_range, bias_batch_stride, range_batch_stride, partial_latent, states, sizes, cut, scale,
            P, BLOCK_ROWS, BLOCK_M, CHUNK, CHUNKS, VALUE_CHUNKS, VALUE_PARTS, IS_PADDED, IS_RESIDENT,
            KEY_GAIN, VALUE_HEADROOM, PRECISION,
        )  # fmt: skip
    else:
        prompt_split(
            program - cut.knowledge_programs, query, key, value, prompt_mask, mask_batch_stride, partial_prompt,
            states, sizes, cut, window, scale,
            HEAD_DIM, GROUP, PROMPT_ROWS, PROMPT_BLOCK, PROMPT_SPLIT, DIM_CHUNK, DIM_CHUNKS, IS_DIM_PADDED, PRECISION,
        )  # fmt: skip


@triton.jit(do_not_specialize=["Hq", "N", "result_queries", "row_count", "knowledge_splits", "splits"])
def latent_merge_kernel(
    partial_latent,
    partial_prompt,
    states,
    prompt,
    latent,
    share,
    lse,
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
    """One program: merges the splits of one row, for some columns of `latent` or, after those, of `prompt`.

    The N queries of a head are part of `result_queries` in `prompt`, `share` and `lse`.
    """
    row = tl.program_id(0)
    block = tl.program_id(1)
    maximum = states.maximum + row.to(tl.int64) * splits
    total = states.total + row.to(tl.int64) * splits
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
        to = latent.data + (row // (N * Hq)).to(tl.int64) * latent.batch + head * latent.head
        to += (row % N).to(tl.int64) * latent.row + column
        tl.store(to, (mixed * (inverse * VALUE_UNIT)).to(latent.data.dtype.element_ty), mask=column < P)
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
