"""Prefill over dense knowledge on Hopper: warps that copy beside warps that multiply (Triton's Gluon).

After FlashAttention-3 (arXiv 2407.08608). Written for the Gluon of Triton 3.6 to 3.9 (its tutorials on TMA, wgmma and
warp specialisation). `triton_forward` says which calls come here; it serves the others, and all where Gluon is not.
"""

# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from kblam_kernels.common import launch
from kblam_kernels.common.launch import SIZES, stride_of
from kblam_kernels.common.tiles import Tile
from kblam_kernels.common.triton_parts import LOG2E
from kblam_kernels.dense.call import DenseCall
from kblam_kernels.dense.gluon_warps import GROUP_ROWS, copying_warp, multiplying_group

# 128 rows are two warp groups of 64, and the launch's own four warps are the first group. Two buffers of keys and of
# values beside the queries of both blocks: 192 KiB, and 16 for what is stored at the end.
TILE = Tile(128, 128, 4, 2)
# Registers of a thread of the second warp group, and of the copying warp.
REGISTERS = gl.constexpr(240)
COPY_REGISTERS = gl.constexpr(24)
# Of a block of rows of 16-bit numbers in shared memory.
LAYOUT = gl.NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=4)


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
    return TensorDescriptor(tensor, list(tensor.shape), [*strides, 1], [1, 1, block, D], LAYOUT)


def forward(call: DenseCall) -> tuple[Tensor, Tensor]:
    """Output (B, Hq, N, D) and lse (B, Hq, N) of a call that `triton_forward.is_for_hopper` takes, of scale > 0."""
    B, Hq, N, _ = call.query.shape
    output, lse = call.empty()
    rows, columns = TILE.block_rows // 2, TILE.block_m
    launch.launch(
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
        scale=call.scale * launch.LOG2E,
        IS_SHARED=call.knowledge_key.dim() == 3,
        SLOTS=TILE.num_stages,
    )
    return output, lse
