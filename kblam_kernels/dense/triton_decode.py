"""Attention of few queries to many columns (Triton): splits of knowledge and of the prompt in one launch, then a merge.

How it works is in this folder's README. Accepts what `triton_forward` accepts.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kblam_kernels.common import memory
from kblam_kernels.common.call import Sizes
from kblam_kernels.common.launch import (
    CUT,
    SIZES,
    STRIDES,
    Cut,
    Knowledge,
    Strides,
    attention,
    chunks,
    cut_of,
    heads,
    launch,
    prompt_tile,
    states_of,
    target_arch,
)
from kblam_kernels.common.splits import MERGE, PROMPT_SPLIT, head_chunk_of, split_tokens
from kblam_kernels.common.tiles import Tile, precision_of, select
from kblam_kernels.common.triton_parts import LN2, LOG2E
from kblam_kernels.common.triton_split import (
    gather_rows,
    levels_of,
    mix_of,
    nothing_seen,
    prompt_split,
    range_of_split,
    scores_of,
    store_statistics,
    store_values,
    sums_of,
    take_in,
    weigh,
)
from kblam_kernels.dense.call import DenseCall
from kblam_kernels.dense.tiles import DECODE


@triton.jit
def _knowledge_split(
    program,
    knowledge,
    bias,
    knowledge_range,
    partial,
    states,
    strides,
    sizes,
    cut,
    scale,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    HEAD: tl.constexpr,
):
    """A row tile of one head against one split of its knowledge."""
    query, key, value = knowledge.query, knowledge.key, knowledge.value
    # Neighbouring programs read the same split, so that it is in L2.
    row_tile = program % cut.row_tiles
    head = (program // cut.row_tiles % sizes.Hq).to(tl.int64)
    group = (program // (cut.row_tiles * sizes.Hq) % cut.groups).to(tl.int64)
    split = program // (cut.row_tiles * sizes.Hq * cut.groups)
    local = row_tile * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    present = local < cut.rows
    # Rows of a group are counted (batch, query).
    batch = (group * cut.rows + local) // sizes.N
    new = local % sizes.N
    rows_base = query.data + batch * query.batch
    rows_base += head * query.head + new.to(tl.int64) * query.row
    r = gather_rows(rows_base, present, HEAD.WIDTH, HEAD.COUNT, HEAD)
    key_base = key.data + group * key.batch + head * key.head
    value_base = value.data + group * value.batch + head * value.head
    start, first_seen, stop = range_of_split(split, knowledge_range, strides, sizes, cut, group, BLOCK_M)
    if bias is not None:
        bias_base = bias.data + group * strides.bias
    acc, row_max, row_sum = nothing_seen(BLOCK_ROWS, HEAD)
    for first in range(start, stop, BLOCK_M):
        token = first + tl.arange(0, BLOCK_M)
        inside = (token >= first_seen) & (token < stop)
        score = scores_of(r, key_base, first, inside, key.row, HEAD, BLOCK_M)
        score = score * scale
        if bias is not None:
            pointers = bias_base + token.to(tl.int64) * bias.column
            score += tl.load(pointers, mask=inside, other=float("-inf"))[None, :] * LOG2E
        else:
            score = tl.where(inside[None, :], score, float("-inf"))
        p, shrink, row_max, row_sum = weigh(row_max, row_sum, score)
        weights = p.to(value.data.dtype.element_ty)
        acc = take_in(acc, weights, shrink, value_base, first, inside, value.row, HEAD.WIDTH, HEAD, BLOCK_M)
    row = (batch * sizes.Hq + head) * sizes.N + new
    store_statistics(states, row_max, row_sum, row, present, split, cut.splits)
    partial_base = partial + split.to(tl.int64) * cut.row_count * HEAD.WIDTH
    store_values(partial_base, acc, row_max, row, present, HEAD.WIDTH, HEAD.WIDTH, HEAD)


@triton.jit(do_not_specialize=[*STRIDES, *SIZES, *CUT, "window"])
def dense_decode_kernel(
    prompt,
    knowledge,
    bias,
    knowledge_range,
    partial,
    states,
    strides_bias, strides_range, strides_mask,
    sizes_B, sizes_Hq, sizes_Hkv, sizes_N, sizes_T, sizes_M,
    cut_rows, cut_row_count, cut_row_tiles, cut_groups, cut_knowledge_programs, cut_prompt_programs,
    cut_knowledge_splits, cut_splits, cut_split_size, cut_prompt_row_tiles, cut_is_spanned,
    window,
    scale,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    PROMPT: tl.constexpr,
    HEAD: tl.constexpr,
):  # fmt: skip
    """One program: a row tile against one split of the knowledge, or of the prompt. `scale` has log2(e) folded in."""
    strides = Strides(strides_bias, strides_range, strides_mask)
    sizes = Sizes(sizes_B, sizes_Hq, sizes_Hkv, sizes_N, sizes_T, sizes_M)
    cut = Cut(
        cut_rows, cut_row_count, cut_row_tiles, cut_groups, cut_knowledge_programs, cut_prompt_programs,
        cut_knowledge_splits, cut_splits, cut_split_size, cut_prompt_row_tiles, cut_is_spanned,
    )  # fmt: skip
    program = tl.program_id(0)
    if program < cut.knowledge_programs:
        _knowledge_split(
            program, knowledge, bias, knowledge_range, partial, states, strides, sizes, cut, scale,
            BLOCK_ROWS, BLOCK_M, HEAD,
        )  # fmt: skip
    else:
        prompt_partial = partial + tl.cast(cut.knowledge_splits, tl.int64) * cut.row_count * HEAD.WIDTH
        prompt_split(
            program - cut.knowledge_programs, prompt, prompt_partial, states, strides, sizes, cut, window, scale,
            PROMPT, HEAD,
        )  # fmt: skip


@triton.jit(do_not_specialize=[*SIZES, *CUT])
def dense_merge_kernel(
    partial,
    states,
    output,
    lse,
    sizes_B, sizes_Hq, sizes_Hkv, sizes_N, sizes_T, sizes_M,
    cut_rows, cut_row_count, cut_row_tiles, cut_groups, cut_knowledge_programs, cut_prompt_programs,
    cut_knowledge_splits, cut_splits, cut_split_size, cut_prompt_row_tiles, cut_is_spanned,
    HEAD_DIM: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """One program: merges the splits of one row, for BLOCK_COLUMNS of its output."""
    sizes = Sizes(sizes_B, sizes_Hq, sizes_Hkv, sizes_N, sizes_T, sizes_M)
    cut = Cut(
        cut_rows, cut_row_count, cut_row_tiles, cut_groups, cut_knowledge_programs, cut_prompt_programs,
        cut_knowledge_splits, cut_splits, cut_split_size, cut_prompt_row_tiles, cut_is_spanned,
    )  # fmt: skip
    Hq, N, splits = sizes.Hq, sizes.N, cut.splits
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    maximum = states.maximum + row.to(tl.int64) * splits
    total = states.total + row.to(tl.int64) * splits
    highest, sees = levels_of(maximum, cut.knowledge_splits, splits, BLOCK_SPLITS)
    summed = sums_of(maximum, total, highest, 0, splits, BLOCK_SPLITS)
    mixed = mix_of(
        partial + row.to(tl.int64) * HEAD_DIM, maximum, highest, splits, tl.cast(cut.row_count, tl.int64) * HEAD_DIM,
        column, HEAD_DIM, BLOCK_SPLITS,
    )  # fmt: skip
    result = tl.where(sees, mixed * (1.0 / summed), 0.0)
    to = output.data + (row // (N * Hq)).to(tl.int64) * output.batch + (row // N % Hq).to(tl.int64) * output.head
    to += (row % N).to(tl.int64) * output.row + column
    tl.store(to, result.to(output.data.dtype.element_ty), mask=column < HEAD_DIM)
    if tl.program_id(1) == 0:
        tl.store(lse + row, tl.where(sees, (highest + tl.math.log2(summed)) * LN2, float("-inf")))


def forward(call: DenseCall, tile: Tile | None = None) -> tuple[Tensor, Tensor]:
    """Output and lse in two launches. `tile` is for tests and tuning; None takes the one from the table."""
    query = call.query
    _, Hq, N, D = query.shape
    output, lse = call.empty()
    if query.numel() == 0:
        return output, lse
    tile = tile or select(DECODE, target_arch(query), precision_of(query.dtype), D)
    key, value = call.knowledge_key, call.knowledge_value
    cut = cut_of(
        call,
        tile,
        rows=N,
        programs=Hq,
        split_size=split_tokens(call.span, tile.block_m),
        prompt_rows=tile.block_rows,
        prompt_split=PROMPT_SPLIT,
        is_shared=all(each.dim() == 3 or each.shape[0] == 1 or each.stride(0) == 0 for each in (key, value)),
    )
    chunk = head_chunk_of(D, query.element_size())
    partial = memory.empty(query, cut.splits, cut.row_count, D, dtype=torch.float32)
    states = states_of(cut, query)
    launch(
        dense_decode_kernel,
        (cut.knowledge_programs + cut.prompt_programs,),
        tile,
        query,
        **attention(call),
        knowledge=Knowledge(heads(call.knowledge_query), heads(key), heads(value)),
        partial=partial,
        states=states,
        cut=cut,
        BLOCK_ROWS=tile.block_rows,
        BLOCK_M=tile.block_m,
        PROMPT=prompt_tile(call, tile.block_rows, PROMPT_SPLIT),
        HEAD=chunks(D, chunk),
    )
    block_columns = min(chunk, MERGE.block_m)
    launch(
        dense_merge_kernel,
        (cut.row_count, triton.cdiv(D, block_columns)),
        MERGE,
        query,
        partial=partial,
        states=states,
        output=heads(output),
        lse=lse,
        sizes=call.sizes,
        cut=cut,
        HEAD_DIM=D,
        BLOCK_SPLITS=MERGE.block_rows,
        BLOCK_COLUMNS=block_columns,
    )
    return output, lse
