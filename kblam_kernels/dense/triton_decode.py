"""Attention of few queries to many columns (Triton): splits of knowledge and of the prompt in one launch, then a merge.

The queries of one head, of all batch rows when these share one list, fold into the rows of one matrix product, so
that a key is read once for the batch; the query heads of one prompt head fold likewise. Accepts what `triton_forward`
accepts. Splits have a fixed number of columns (`common/splits.py`), so a row's result does not depend on the batch.

No host synchronisation and no shape that depends on data: a CUDA graph can capture a call, and a list that grows
within its room, its range read on the device, needs no new capture.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kblam_kernels.common.launch import Cut, States, heads, launch, masks, prompt, scratch, sizes_of, target_arch
from kblam_kernels.common.output import empty_output
from kblam_kernels.common.splits import (
    MAX_DENSE_SPLITS,
    MERGE,
    MIN_DENSE_SPLIT,
    PROMPT_SPLIT,
    head_chunk_of,
    prompt_block,
    split_tokens,
)
from kblam_kernels.common.tiles import Tile, precision_of, select
from kblam_kernels.common.triton_parts import LN2, LOG2E
from kblam_kernels.common.triton_split import (
    gather_rows,
    levels_of,
    mix_of,
    no_values,
    prompt_split,
    range_of_split,
    scores_of,
    store_statistics,
    store_values,
    sums_of,
    take_in,
)
from kblam_kernels.dense.call import DenseCall
from kblam_kernels.dense.tiles import DECODE


@triton.jit
def _knowledge_split(
    program,
    key,
    value,
    query,
    bias,
    knowledge_range,
    bias_batch_stride,
    range_batch_stride,
    partial,
    states,
    sizes,
    cut,
    scale,
    HEAD_DIM: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    IS_PADDED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A row tile of one head against one split of its knowledge."""
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
    r = gather_rows(rows_base, present, HEAD_DIM, CHUNKS, CHUNK, IS_PADDED)
    key_base = key.data + group * key.batch + head * key.head
    value_base = value.data + group * value.batch + head * value.head
    start, first_seen, stop = range_of_split(split, knowledge_range, range_batch_stride, sizes, cut, group, BLOCK_M)
    if bias is not None:
        bias_base = bias.data + group * bias_batch_stride
    acc = no_values(BLOCK_ROWS, CHUNKS, CHUNK)
    row_max = tl.full([BLOCK_ROWS], float("-inf"), dtype=tl.float32)
    row_sum = tl.zeros([BLOCK_ROWS], dtype=tl.float32)
    for first in range(start, stop, BLOCK_M):
        token = first + tl.arange(0, BLOCK_M)
        inside = (token >= first_seen) & (token < stop)
        score = scores_of(r, key_base, first, inside, key.row, HEAD_DIM, BLOCK_M, CHUNKS, CHUNK, IS_PADDED, PRECISION)
        score = score * scale
        if bias is not None:
            pointers = bias_base + token.to(tl.int64) * bias.column
            score += tl.load(pointers, mask=inside, other=float("-inf"))[None, :] * LOG2E
        else:
            score = tl.where(inside[None, :], score, float("-inf"))
        acc, row_max, row_sum = take_in(
            acc, row_max, row_sum, score, value_base, first, inside, value.row, HEAD_DIM,
            BLOCK_M, CHUNKS, CHUNK, IS_PADDED, PRECISION,
        )  # fmt: skip
    row = (batch * sizes.Hq + head) * sizes.N + new
    store_statistics(states, row_max, row_sum, row, present, split, cut.splits)
    partial_base = partial + split.to(tl.int64) * cut.row_count * HEAD_DIM
    store_values(partial_base, acc, row_max, row, present, HEAD_DIM, HEAD_DIM, CHUNKS, CHUNK, IS_PADDED)


@triton.jit(
    do_not_specialize=["sizes", "cut", "window", "bias_batch_stride", "mask_batch_stride", "range_batch_stride"]
)
def dense_decode_kernel(
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
    states,
    bias_batch_stride,
    mask_batch_stride,
    range_batch_stride,
    sizes,
    cut,
    window,
    scale,
    HEAD_DIM: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    PROMPT_BLOCK: tl.constexpr,
    PROMPT_SPLIT: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    IS_PADDED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program: a row tile against one split of the knowledge, or of the prompt. `scale` has log2(e) folded in.

    Tensors are `Heads`, bias, mask and range `Columns`; absent ones are None.
    """
    program = tl.program_id(0)
    if program < cut.knowledge_programs:
        _knowledge_split(
            program, knowledge_key, knowledge_value, knowledge_query, bias, knowledge_range,
            bias_batch_stride, range_batch_stride, partial, states, sizes, cut, scale,
            HEAD_DIM, BLOCK_ROWS, BLOCK_M, CHUNK, CHUNKS, IS_PADDED, PRECISION,
        )  # fmt: skip
    else:
        prompt_split(
            program - cut.knowledge_programs, query, key, value, prompt_mask, mask_batch_stride,
            partial + tl.cast(cut.knowledge_splits, tl.int64) * cut.row_count * HEAD_DIM, states, sizes, cut, window,
            scale, HEAD_DIM, GROUP, BLOCK_ROWS, PROMPT_BLOCK, PROMPT_SPLIT, CHUNK, CHUNKS, IS_PADDED, PRECISION,
        )  # fmt: skip


@triton.jit(do_not_specialize=["Hq", "N", "row_count", "knowledge_splits", "splits"])
def dense_merge_kernel(
    partial,
    states,
    output,
    lse,
    Hq,
    N,
    row_count,
    knowledge_splits,
    splits,
    HEAD_DIM: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """One program: merges the splits of one row, for BLOCK_COLUMNS of its output."""
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    maximum = states.maximum + row.to(tl.int64) * splits
    total = states.total + row.to(tl.int64) * splits
    # A padding row sees no prompt column, so it sees no knowledge either.
    highest, sees = levels_of(maximum, knowledge_splits, splits, BLOCK_SPLITS)
    summed = sums_of(maximum, total, highest, 0, splits, BLOCK_SPLITS)
    mixed = mix_of(
        partial + row.to(tl.int64) * HEAD_DIM, maximum, highest, 0, splits, tl.cast(row_count, tl.int64) * HEAD_DIM,
        column, HEAD_DIM, BLOCK_SPLITS, BLOCK_COLUMNS,
    )  # fmt: skip
    result = mixed * tl.where(sees, 1.0 / summed, 0.0)
    to = output.data + (row // (N * Hq)).to(tl.int64) * output.batch + (row // N % Hq).to(tl.int64) * output.head
    to += (row % N).to(tl.int64) * output.row + column
    tl.store(to, result.to(output.data.dtype.element_ty), mask=column < HEAD_DIM)
    if tl.program_id(1) == 0:
        tl.store(lse + row, tl.where(sees, (highest + tl.math.log2(summed)) * LN2, float("-inf")))


def forward(call: DenseCall, tile: Tile | None = None) -> tuple[Tensor, Tensor]:
    """Output and lse in two launches. `tile` is for tests and tuning; None takes the one from the table."""
    query = call.query
    B, Hq, N, D = query.shape
    Hkv, T, M = call.key.shape[1], call.key.shape[2], call.knowledge_key.shape[-2]
    output, lse = empty_output(query)
    if query.numel() == 0:
        return output, lse
    tile = tile or select(DECODE, target_arch(query), precision_of(query.dtype), D)
    # The batch folds when its rows share the list, its range and its bias; known without reading the device.
    is_shared = call.knowledge_key.dim() == 3 or call.knowledge_key.shape[0] == 1 or call.knowledge_key.stride(0) == 0
    folds = is_shared and all(t is None or t.shape[0] == 1 for t in (call.bias, call.knowledge_range))
    groups, rows = (1, B * N) if folds else (B, N)
    row_tiles = triton.cdiv(rows, tile.block_rows)
    split_size = split_tokens(M, tile.block_m, MAX_DENSE_SPLITS, MIN_DENSE_SPLIT)
    knowledge_splits, prompt_splits = triton.cdiv(M, split_size), triton.cdiv(T, PROMPT_SPLIT)
    cut = Cut(
        rows=rows,
        row_count=B * Hq * N,
        row_tiles=row_tiles,
        groups=groups,
        knowledge_programs=knowledge_splits * groups * Hq * row_tiles,
        knowledge_splits=knowledge_splits,
        splits=knowledge_splits + prompt_splits,
        split_size=split_size,
        prompt_row_tiles=triton.cdiv(Hq // Hkv * N, tile.block_rows),
    )
    chunk = head_chunk_of(D, query.element_size())
    partial = scratch(query, cut.splits, cut.row_count, D)
    states = States(*(scratch(query, cut.row_count, cut.splits) for _ in range(2)))
    launch(
        dense_decode_kernel,
        (cut.knowledge_programs + prompt_splits * B * Hkv * cut.prompt_row_tiles,),
        tile,
        query,
        **prompt(call, call.prompt_mask),
        **masks(call.bias, call.knowledge_range),
        knowledge_key=heads(call.knowledge_key),
        knowledge_value=heads(call.knowledge_value),
        knowledge_query=heads(call.knowledge_query),
        partial=partial,
        states=states,
        sizes=sizes_of(call, M),
        cut=cut,
        scale=call.scale * LOG2E.value,
        BLOCK_ROWS=tile.block_rows,
        BLOCK_M=tile.block_m,
        PROMPT_BLOCK=prompt_block(D, query.element_size()),
        PROMPT_SPLIT=PROMPT_SPLIT,
        CHUNK=chunk,
        CHUNKS=triton.cdiv(D, chunk),
        IS_PADDED=D % chunk != 0,
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
        Hq=Hq,
        N=N,
        row_count=cut.row_count,
        knowledge_splits=knowledge_splits,
        splits=cut.splits,
        HEAD_DIM=D,
        BLOCK_SPLITS=MERGE.block_rows,
        BLOCK_COLUMNS=block_columns,
    )
    return output, lse
