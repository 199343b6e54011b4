"""Prefill over dense knowledge on Hopper: warps that copy beside warps that multiply (Triton's Gluon).

The order is that of FlashAttention-3 (arXiv 2407.08608, sections 3.1 and 3.2). One warp copies tiles of columns into
shared memory by TMA; two warp groups of 64 rows each take the scores of a tile while the weights of the tile before
meet its values. Written for the Gluon of Triton 3.6 and 3.7 (triton-lang.org, tutorials of Gluon: TMA, wgmma, warp
specialisation). `triton_forward` says which calls come here; the others, and all others' Tritons, stay there.
"""

# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from kblam_kernels.common.launch import SIZES, launch, stride_of
from kblam_kernels.common.tiles import Tile
from kblam_kernels.common.triton_parts import LN2, LOG2E
from kblam_kernels.dense.call import DenseCall

# 128 rows are two warp groups of 64; the launch's own four warps are the first. Two buffers of keys and of values beside
# the queries of both blocks take 192 KiB.
TILE = Tile(128, 128, 4, 2)
# Rows of one wgmma.
GROUP_ROWS = gl.constexpr(64)
# Registers of a thread of the second warp group, and of the copying warp.
REGISTERS = gl.constexpr(240)
COPY_REGISTERS = gl.constexpr(24)


@gluon.jit
def copy_rows(rows, batch, head, start, buffer, full):
    """Copies the rows from `start` on of one head, (1, 1, rows, D), zeros past the end, to a buffer (rows, D)."""
    target = buffer.reshape(rows.block_type.shape)
    tma.async_copy_global_to_shared(rows, [batch, head, start, 0], full, target)


@gluon.jit
def copy_tile(rows, batch, head, start, buffers, full, empty, count):
    """Copies tile number `count` of keys or of values, once its buffer has been read."""
    slot = count % buffers.shape[0]
    mbarrier.wait(empty.index(slot), ((count // buffers.shape[0]) & 1) ^ 1)
    mbarrier.expect(full.index(slot), rows.block_type.nbytes)
    copy_rows(rows, batch, head, start, buffers.index(slot), full.index(slot))


@gluon.jit
def copy_queries(rows, batch, head, start, buffers, FIRST: gl.constexpr, full):
    """Copies the query rows of both warp groups."""
    mbarrier.expect(full, 2 * rows.block_type.nbytes)
    copy_rows(rows, batch, head, start, buffers.index(FIRST), full)
    copy_rows(rows, batch, head, start + GROUP_ROWS, buffers.index(FIRST + 1), full)


@gluon.jit
def copying_warp(prompt, knowledge, buffers, barriers, place, tiles, BLOCK_M: gl.constexpr):
    """Copies queries and columns, the prompt from its causal edge back to its start, then the knowledge."""
    query, key, value = prompt
    query_buffers, key_buffers, value_buffers = buffers
    query_full, key_full, value_full, key_empty, value_empty = barriers
    batch, head, first_row, prompt_head, knowledge_batch = place
    prompt_tiles, knowledge_tiles = tiles
    copy_queries(query, batch, head, first_row, query_buffers, 0, query_full.index(0))
    count = 0
    for j in range(prompt_tiles):
        start = (prompt_tiles - 1 - j) * BLOCK_M
        copy_tile(key, batch, prompt_head, start, key_buffers, key_full, key_empty, count)
        if j == 0:
            copy_queries(knowledge[0], batch, head, first_row, query_buffers, 2, query_full.index(1))
        copy_tile(value, batch, prompt_head, start, value_buffers, value_full, value_empty, count)
        count += 1
    query, key, value = knowledge
    for j in range(knowledge_tiles):
        copy_tile(key, knowledge_batch, head, j * BLOCK_M, key_buffers, key_full, key_empty, count)
        copy_tile(value, knowledge_batch, head, j * BLOCK_M, value_buffers, value_full, value_empty, count)
        count += 1


@gluon.jit
def weights_of(score, row_max, row_sum, scale, shift, limit, RAGGED: gl.constexpr, WEIGHTS: gl.constexpr, dtype):
    """One online-softmax step, see `triton_spans.absorb`. A row sees the columns of a RAGGED tile before its limit."""
    if RAGGED:
        column = gl.arange(0, score.shape[1], layout=gl.SliceLayout(0, score.type.layout))
        score = gl.where(column[None, :] < limit[:, None], score, float("-inf"))
    new_max = gl.maximum(row_max, gl.max(score, 1) * scale + shift)
    # A row that has seen nothing keeps -inf; subtracting that from itself would be NaN.
    safe_max = gl.where(new_max == float("-inf"), 0.0, new_max)
    p = gl.exp2(score * scale - (safe_max - shift)[:, None])
    shrink = gl.exp2(row_max - safe_max)
    row_sum = row_sum * shrink + gl.sum(p, 1)
    return gl.convert_layout(p.to(dtype), WEIGHTS), shrink, new_max, row_sum


@gluon.jit
def step(state, count, query, buffers, barriers, scale, shift, limit, RAGGED: gl.constexpr):
    """The scores of tile `count` while the weights of the tile before meet their values."""
    acc, p, row_max, row_sum = state
    _, key_buffers, value_buffers = buffers
    query_full, key_full, value_full, key_empty, value_empty = barriers
    SLOTS: gl.constexpr = key_buffers.shape[0]
    BLOCK_M: gl.constexpr = key_buffers.shape[1]
    SCORES: gl.constexpr = row_max.type.layout.parent
    slot = count % SLOTS
    before = count - 1
    old = before % SLOTS
    mbarrier.wait(key_full.index(slot), (count // SLOTS) & 1)
    zero = gl.zeros([GROUP_ROWS, BLOCK_M], gl.float32, SCORES)
    score = warpgroup_mma(query, key_buffers.index(slot).permute((1, 0)), zero, use_acc=False, is_async=True)
    mbarrier.wait(value_full.index(old), (before // SLOTS) & 1)
    acc = warpgroup_mma(p, value_buffers.index(old), acc, is_async=True)
    score = warpgroup_mma_wait(1, deps=[score])
    mbarrier.arrive(key_empty.index(slot), count=1)
    new_p, shrink, row_max, row_sum = weights_of(
        score, row_max, row_sum, scale, shift, limit, RAGGED, p.type.layout, p.dtype
    )
    # Long complete: a branch, over which ptxas does not hoist the wait for the second product.
    mbarrier.wait(query_full.index(0), 0)
    acc, p = warpgroup_mma_wait(0, deps=[acc, p])
    mbarrier.arrive(value_empty.index(old), count=1)
    acc = acc * gl.convert_layout(shrink, gl.SliceLayout(1, acc.type.layout))[:, None]
    return acc, new_p, row_max, row_sum


@gluon.jit
def multiplying_group(GROUP: gl.constexpr, results, buffers, barriers, place, lengths, tiles, scale, shift):
    """One warp group: its 64 rows against all columns that they see."""
    output, lse = results
    query_buffers, key_buffers, value_buffers = buffers
    query_full, key_full, value_full, key_empty, value_empty = barriers
    batch, head, first_row = place
    Hq, N, T, tokens = lengths
    prompt_tiles, knowledge_tiles = tiles
    BLOCK_M: gl.constexpr = key_buffers.shape[1]
    D: gl.constexpr = key_buffers.shape[2]
    dtype: gl.constexpr = output.dtype.element_ty
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_M, 16])
    VALUES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(0, VALUES, 2)
    ROWS: gl.constexpr = gl.SliceLayout(1, SCORES)
    local = GROUP * GROUP_ROWS + gl.arange(0, GROUP_ROWS, layout=ROWS)
    end = T - N + first_row + local + 1  # of the prompt columns that a row sees
    row_max = gl.full([GROUP_ROWS], float("-inf"), gl.float32, ROWS)
    row_sum = gl.zeros([GROUP_ROWS], gl.float32, ROWS)
    acc = gl.zeros([GROUP_ROWS, D], gl.float32, VALUES)

    # The prompt, from its causal edge: the first tile has no weights before it, and the tiles before column
    # `whole * BLOCK_M` are seen by every row.
    mbarrier.wait(query_full.index(0), 0)
    query = query_buffers.index(GROUP)
    mbarrier.wait(key_full.index(0), 0)
    zero = gl.zeros([GROUP_ROWS, BLOCK_M], gl.float32, SCORES)
    score = warpgroup_mma(query, key_buffers.index(0).permute((1, 0)), zero, use_acc=False, is_async=True)
    score = warpgroup_mma_wait(0, deps=[score])
    mbarrier.arrive(key_empty.index(0), count=1)
    limit = end - (prompt_tiles - 1) * BLOCK_M
    p, shrink, row_max, row_sum = weights_of(score, row_max, row_sum, scale, 0.0, limit, True, WEIGHTS, dtype)
    state = (acc, p, row_max, row_sum)
    whole = gl.minimum((T - N + first_row + 1) // BLOCK_M, prompt_tiles - 1)
    count = 1
    for j in range(prompt_tiles - 1 - whole):
        limit = end - (prompt_tiles - 2 - j) * BLOCK_M
        state = step(state, count, query, buffers, barriers, scale, 0.0, limit, True)
        count += 1
    for j in range(whole):
        state = step(state, count, query, buffers, barriers, scale, 0.0, end, False)
        count += 1
    sees_prompt = state[2] > float("-inf")

    # The knowledge: whole tiles, then one ragged tile.
    mbarrier.wait(query_full.index(1), 0)
    query = query_buffers.index(2 + GROUP)
    for j in range(tokens // BLOCK_M):
        state = step(state, count, query, buffers, barriers, scale, shift, end, False)
        count += 1
    for j in range(tokens // BLOCK_M, knowledge_tiles):
        limit = gl.zeros([GROUP_ROWS], gl.int32, ROWS) + (tokens - j * BLOCK_M)
        state = step(state, count, query, buffers, barriers, scale, shift, limit, True)
        count += 1
    acc, p, row_max, row_sum = state
    old = (count - 1) % key_buffers.shape[0]
    mbarrier.wait(value_full.index(old), ((count - 1) // key_buffers.shape[0]) & 1)
    acc = warpgroup_mma(p, value_buffers.index(old), acc, is_async=True)
    acc, p = warpgroup_mma_wait(0, deps=[acc, p])

    total = gl.where(sees_prompt, row_sum, 1.0)
    row_lse = gl.where(sees_prompt, (row_max + gl.log2(total)) * LN2, float("-inf"))
    gl.store(lse + (batch * Hq + head) * N + first_row + local, row_lse, mask=local < N - first_row)
    inverse = gl.convert_layout(gl.where(sees_prompt, 1.0 / total, 0.0), gl.SliceLayout(1, VALUES))[:, None]
    result = gl.where(inverse > 0.0, acc * inverse, 0.0)  # a row that sees nothing may be NaN
    # Rows of 16 bytes a thread; in memory the output is (B, N, Hq, D).
    STORED: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])
    result = gl.convert_layout(result.to(dtype), STORED)
    row = GROUP * GROUP_ROWS + gl.arange(0, GROUP_ROWS, layout=gl.SliceLayout(1, STORED))
    column = gl.arange(0, D, layout=gl.SliceLayout(0, STORED))
    base = output + ((batch * N + first_row) * Hq + head) * D
    gl.store(base + (row * (Hq * D))[:, None] + column[None, :], result, mask=(row < N - first_row)[:, None])


# Lengths are not specialised: a growing cache must not compile again.
@gluon.jit(do_not_specialize=[*SIZES, "bias_stride"])
def dense_hopper_kernel(
    query,
    key,
    value,
    knowledge_query,
    knowledge_key,
    knowledge_value,
    bias,
    output,
    lse,
    bias_stride,
    sizes_B, sizes_Hq, sizes_Hkv, sizes_N, sizes_T, sizes_M,
    scale,
    IS_SHARED: gl.constexpr,
    SLOTS: gl.constexpr,
):  # fmt: skip
    """One program: 128 queries of one head against all columns they see, in the order of `dense_forward_kernel`.

    `scale` has log2(e) folded in and is positive. The first six are tensor descriptors of rank 4.
    """
    BLOCK_M: gl.constexpr = key.block_type.shape[2]
    D: gl.constexpr = key.block_type.shape[3]
    BLOCK_N: gl.constexpr = 2 * GROUP_ROWS
    B, Hq, N, T = sizes_B, sizes_Hq, sizes_N, sizes_T
    dtype: gl.constexpr = output.dtype.element_ty
    program = gl.program_id(0)
    row_tiles = gl.cdiv(N, BLOCK_N)
    first_row = (row_tiles - 1 - program % row_tiles) * BLOCK_N
    outer = program // row_tiles
    if IS_SHARED:
        batch = outer % B
        head = outer // B
        knowledge_batch = 0
    else:
        head = outer % Hq
        batch = outer // Hq
        knowledge_batch = batch
    shift = 0.0
    tokens = sizes_M
    if bias is not None:
        shift = gl.load(bias + batch.to(gl.int64) * bias_stride) * LOG2E
        # -inf hides the whole list.
        tokens = gl.where(shift == float("-inf"), 0, tokens)
        shift = gl.where(shift == float("-inf"), 0.0, shift)
    tiles = (gl.cdiv(gl.minimum(T - N + first_row + BLOCK_N, T), BLOCK_M), gl.cdiv(tokens, BLOCK_M))

    ROWS: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BLOCK_M, D], dtype)
    buffers = (
        gl.allocate_shared_memory(dtype, [4, GROUP_ROWS, D], ROWS),
        gl.allocate_shared_memory(dtype, [SLOTS, BLOCK_M, D], ROWS),
        gl.allocate_shared_memory(dtype, [SLOTS, BLOCK_M, D], ROWS),
    )
    query_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    key_full = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    value_full = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    key_empty = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    value_empty = gl.allocate_shared_memory(gl.int64, [SLOTS, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(2):
        mbarrier.init(query_full.index(i), count=1)
    for i in gl.static_range(SLOTS):
        mbarrier.init(key_full.index(i), count=1)
        mbarrier.init(value_full.index(i), count=1)
        mbarrier.init(key_empty.index(i), count=2)
        mbarrier.init(value_empty.index(i), count=2)
    fence_async_shared()
    barriers = (query_full, key_full, value_full, key_empty, value_empty)
    FIRST: gl.constexpr = 0
    SECOND: gl.constexpr = 1
    results = (output, lse)
    place = (batch.to(gl.int64), head, first_row)
    lengths = (Hq, N, T, tokens)
    gl.warp_specialize(
        [
            (multiplying_group, (FIRST, results, buffers, barriers, place, lengths, tiles, scale, shift)),
            (multiplying_group, (SECOND, results, buffers, barriers, place, lengths, tiles, scale, shift)),
            (
                copying_warp,
                (
                    (query, key, value),
                    (knowledge_query, knowledge_key, knowledge_value),
                    buffers,
                    barriers,
                    (batch, head, first_row, head // (Hq // sizes_Hkv), knowledge_batch),
                    tiles,
                    BLOCK_M,
                ),
            ),
        ],
        [4, 1],
        [REGISTERS, COPY_REGISTERS],
    )


def rows_of(tensor: Tensor, block: int) -> TensorDescriptor:
    """How TMA finds blocks of rows of a tensor (batch, heads, rows, D), or (heads, rows, D) that the batch shares.

    What it cannot address is copied: which kernel serves must not depend on where one row of a batch lies.
    """
    tensor = tensor[(None,) * (4 - tensor.dim())]
    strides = [stride_of(tensor, axis) for axis in range(3)]
    lost = any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, strides, strict=False))
    if lost or tensor.data_ptr() % 16 or any(stride * tensor.element_size() % 16 for stride in strides):
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        strides = [stride_of(tensor, axis) for axis in range(3)]
    D = tensor.shape[3]
    # An axis of one entry has any stride.
    strides = [stride or D for stride in strides]
    layout = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=4)
    return TensorDescriptor(tensor, list(tensor.shape), [*strides, 1], [1, 1, block, D], layout)


def forward(call: DenseCall) -> tuple[Tensor, Tensor]:
    """Output (B, Hq, N, D) and lse (B, Hq, N) of a call that `triton_forward.is_for_hopper` takes; its scale is > 0."""
    B, Hq, N, _ = call.query.shape
    output, lse = call.empty()
    rows, columns = int(GROUP_ROWS.value), TILE.block_m
    launch(
        dense_hopper_kernel,
        (triton.cdiv(N, TILE.block_rows) * B * Hq,),
        TILE,
        call.query,
        query=rows_of(call.query, rows),
        key=rows_of(call.key, columns),
        value=rows_of(call.value, columns),
        knowledge_query=rows_of(call.knowledge_query, rows),
        knowledge_key=rows_of(call.knowledge_key, columns),
        knowledge_value=rows_of(call.knowledge_value, columns),
        bias=call.bias,
        output=output,
        lse=lse,
        bias_stride=stride_of(call.bias, 0),
        sizes=call.sizes,
        scale=call.scale * float(LOG2E.value),
        IS_SHARED=call.knowledge_key.dim() == 3,
        SLOTS=TILE.num_stages,
    )
    return output, lse
