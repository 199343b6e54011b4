"""Dense rectangular attention in one flash-style pass (Triton). The algorithm is told in this folder's README.

What the launcher accepts (`dispatch` refuses everything else before it gets here):

- CUDA tensors, or CPU tensors when TRITON_INTERPRET=1 was set before triton was imported;
- float32, float16 or bfloat16, one dtype for all but bias (float32), mask (bool) and range (int32 or int64);
- head_dim up to 256, any strides with a contiguous last dimension;
- shapes and meanings as `reference.forward`; bias (B or 1, M), window at least 1.

No host synchronisation and no shape that depends on data: a CUDA graph can capture a call.
"""

from __future__ import annotations

import contextlib
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from kblam_kernels import tiles
from kblam_kernels.rectangular.op import empty_output
from kblam_kernels.rectangular.triton_parts import LOG2E, knowledge_span, load_range, load_rows, prompt_span, store_rows

LN2 = tl.constexpr(math.log(2.0))
# tf32x3 splits a float32 into two tf32 parts and keeps three of the four products: tensor cores (52 TFLOP/s at most on
# an A100, against 19.5 of "ieee") at an error near float32's own. 16-bit inputs ignore it.
FLOAT32_PRECISION = "tf32x3"


# Lengths and the strides that follow them are not specialised: a growing cache must not compile again.
@triton.jit(do_not_specialize=["B", "Hq", "N", "T", "M", "window", "bias_batch_stride", "mask_batch_stride"])
def rectangular_forward_kernel(
    query,
    key,
    value,
    knowledge_key,
    knowledge_value,
    knowledge_query,
    bias,
    prompt_bias,
    knowledge_range,
    output,
    lse,
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
    output_batch_stride,
    output_head_stride,
    output_row_stride,
    B,
    Hq,
    N,
    T,
    M,
    window,
    scale,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_MAIN: tl.constexpr,
    DIM_REST: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    RAGGED_STAGES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    BIAS_PER_TOKEN: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_RANGE: tl.constexpr,
    IS_SHARED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program: BLOCK_N queries of one head against all columns they see.

    `scale` has log2(e) folded in; `prompt_bias` (B, T) is 0 where the mask shows a column, -inf where it hides it.
    """
    # Neighbouring programs read the same columns, so that they meet in L2: first the tiles of one head, then,
    # when the batch shares its knowledge, the batch rows of that head, else the heads of one prompt group.
    program = tl.program_id(0)
    row_tiles = tl.cdiv(N, BLOCK_N)
    # Later tiles see more prompt: starting with them leaves the short ones to fill the end of the last wave.
    first_row = (row_tiles - 1 - program % row_tiles) * BLOCK_N
    outer = program // row_tiles
    if IS_SHARED:
        batch = (outer % B).to(tl.int64)
        head = (outer // B).to(tl.int64)
    else:
        head = (outer % Hq).to(tl.int64)
        batch = (outer // Hq).to(tl.int64)

    row = first_row + tl.arange(0, BLOCK_N)
    acc = tl.zeros([BLOCK_N, DIM_MAIN], dtype=tl.float32)
    # Without a rest this is never touched and the compiler drops it.
    acc_rest = tl.zeros([BLOCK_N, DIM_REST if DIM_REST > 0 else 16], dtype=tl.float32)
    row_max = tl.full([BLOCK_N], float("-inf"), dtype=tl.float32)
    row_sum = tl.zeros([BLOCK_N], dtype=tl.float32)

    # The prompt: whole tiles in the middle, ragged ones where the window opens and where causality cuts.
    query_base = query + batch * query_batch_stride + head * query_head_stride
    q = load_rows(query_base, first_row, N, query_row_stride, BLOCK_N, 0, DIM_MAIN, HEAD_DIM, True)
    q_rest = q
    if DIM_REST > 0:
        q_rest = load_rows(query_base, first_row, N, query_row_stride, BLOCK_N, DIM_MAIN, DIM_REST, HEAD_DIM, True)
    key_base = key + batch * key_batch_stride + head // GROUP * key_head_stride
    value_base = value + batch * value_batch_stride + head // GROUP * value_head_stride
    mask_base = prompt_bias
    if HAS_MASK:
        mask_base = prompt_bias + batch * mask_batch_stride
    last_column = T - N + row  # [BLOCK_N]
    prompt_end = tl.minimum(T - N + first_row + BLOCK_N, T)
    full_start = 0
    if HAS_WINDOW:
        open_start = tl.maximum(T - N + first_row - window + 1, 0)
        # The first column that the tile's last row still sees, rounded up to a whole tile.
        full_start = tl.maximum(T - N + first_row + BLOCK_N - window, open_start)
        full_start = tl.minimum(open_start + tl.cdiv(full_start - open_start, BLOCK_M) * BLOCK_M, prompt_end)
        acc, acc_rest, row_max, row_sum = prompt_span(
            acc, acc_rest, row_max, row_sum, q, q_rest, key_base, value_base, mask_base,
            key_row_stride, value_row_stride, mask_column_stride, scale,
            open_start, full_start, T, last_column, window,
            BLOCK_M, HEAD_DIM, DIM_MAIN, DIM_REST, HAS_MASK, HAS_WINDOW, True, RAGGED_STAGES, PRECISION,
        )  # fmt: skip
    full_end = full_start + tl.maximum(T - N + first_row + 1 - full_start, 0) // BLOCK_M * BLOCK_M
    acc, acc_rest, row_max, row_sum = prompt_span(
        acc, acc_rest, row_max, row_sum, q, q_rest, key_base, value_base, mask_base,
        key_row_stride, value_row_stride, mask_column_stride, scale,
        full_start, full_end, T, last_column, window,
        BLOCK_M, HEAD_DIM, DIM_MAIN, DIM_REST, HAS_MASK, HAS_WINDOW, False, RAGGED_STAGES, PRECISION,
    )  # fmt: skip
    acc, acc_rest, row_max, row_sum = prompt_span(
        acc, acc_rest, row_max, row_sum, q, q_rest, key_base, value_base, mask_base,
        key_row_stride, value_row_stride, mask_column_stride, scale,
        full_end, prompt_end, T, last_column, window,
        BLOCK_M, HEAD_DIM, DIM_MAIN, DIM_REST, HAS_MASK, HAS_WINDOW, True, RAGGED_STAGES, PRECISION,
    )  # fmt: skip

    # A padding row sees no prompt column, so it sees no knowledge either. Coming first, the prompt tells it for free.
    sees_prompt = row_max > float("-inf")

    # The knowledge: whole tiles, then one ragged tile.
    knowledge_start = 0
    knowledge_end = M
    if HAS_RANGE:
        range_base = knowledge_range + batch * range_batch_stride
        knowledge_start, knowledge_end = load_range(range_base, range_end_stride, M)
    if HAS_MASK:
        # A tile of padding rows alone has nothing to read.
        anyone = tl.max(sees_prompt.to(tl.int32), 0)
        knowledge_end = tl.where(anyone > 0, knowledge_end, knowledge_start)
    shift = 0.0
    bias_base = bias
    if HAS_BIAS:
        bias_base = bias + batch * bias_batch_stride
        if not BIAS_PER_TOKEN:
            shift = tl.load(bias_base) * LOG2E
            # -inf hides the whole list.
            knowledge_end = tl.where(shift == float("-inf"), knowledge_start, knowledge_end)
            shift = tl.where(shift == float("-inf"), 0.0, shift)
    r_base = knowledge_query + batch * knowledge_query_batch_stride + head * knowledge_query_head_stride
    r = load_rows(r_base, first_row, N, knowledge_query_row_stride, BLOCK_N, 0, DIM_MAIN, HEAD_DIM, True)
    r_rest = r
    if DIM_REST > 0:
        r_rest = load_rows(
            r_base, first_row, N, knowledge_query_row_stride, BLOCK_N, DIM_MAIN, DIM_REST, HEAD_DIM, True
        )
    kappa_base = knowledge_key + batch * knowledge_key_batch_stride + head * knowledge_key_head_stride
    nu_base = knowledge_value + batch * knowledge_value_batch_stride + head * knowledge_value_head_stride
    whole_end = knowledge_start + tl.maximum(knowledge_end - knowledge_start, 0) // BLOCK_M * BLOCK_M
    acc, acc_rest, row_max, row_sum = knowledge_span(
        acc, acc_rest, row_max, row_sum, r, r_rest, kappa_base, nu_base, bias_base,
        knowledge_key_row_stride, knowledge_value_row_stride, bias_token_stride, scale, shift,
        knowledge_start, whole_end, knowledge_end,
        BLOCK_M, HEAD_DIM, DIM_MAIN, DIM_REST, BIAS_PER_TOKEN, False, RAGGED_STAGES, PRECISION,
    )  # fmt: skip
    acc, acc_rest, row_max, row_sum = knowledge_span(
        acc, acc_rest, row_max, row_sum, r, r_rest, kappa_base, nu_base, bias_base,
        knowledge_key_row_stride, knowledge_value_row_stride, bias_token_stride, scale, shift,
        whole_end, knowledge_end, knowledge_end,
        BLOCK_M, HEAD_DIM, DIM_MAIN, DIM_REST, BIAS_PER_TOKEN, True, RAGGED_STAGES, PRECISION,
    )  # fmt: skip

    total = tl.where(sees_prompt, row_sum, 1.0)
    inverse = tl.where(sees_prompt, 1.0 / total, 0.0)
    row_lse = tl.where(sees_prompt, (row_max + tl.math.log2(total)) * LN2, float("-inf"))
    # Rows count from the tile's first here, so that no address computed above stays in registers until now.
    local_row = tl.arange(0, BLOCK_N)
    stored = local_row < N - first_row
    tl.store(lse + (batch * Hq + head) * N + first_row + local_row, row_lse, mask=stored)
    output_base = output + batch * output_batch_stride + head * output_head_stride
    output_base += first_row.to(tl.int64) * output_row_stride
    store_rows(output_base, acc * inverse[:, None], stored, output_row_stride, 0, DIM_MAIN, HEAD_DIM)
    if DIM_REST > 0:
        store_rows(output_base, acc_rest * inverse[:, None], stored, output_row_stride, DIM_MAIN, DIM_REST, HEAD_DIM)


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge_key: Tensor,
    knowledge_value: Tensor,
    knowledge_query: Tensor,
    bias: Tensor | None,
    prompt_mask: Tensor | None,
    knowledge_range: Tensor | None,
    scale: float,
    window: int | None,
) -> tuple[Tensor, Tensor]:
    """Output (B, Hq, N, D) in the dtype of `query` and natural-log lse (B, Hq, N) float32; as `reference.forward`."""
    B, Hq, N, D = query.shape
    Hkv, T, M = key.shape[1], key.shape[2], knowledge_key.shape[-2]
    output, lse = empty_output(query)
    if output.numel() == 0:
        return output, lse
    if scale < 0:
        # The kernel takes the row maximum before it scales.
        shared_query = knowledge_query is query
        query = -query
        knowledge_query = query if shared_query else -knowledge_query
    is_shared = knowledge_key.dim() == 3
    if is_shared:
        knowledge_key, knowledge_value = knowledge_key[None].expand(B, -1, -1, -1), knowledge_value[None]
        knowledge_value = knowledge_value.expand(B, -1, -1, -1)
    has_bias = bias is not None and M > 0
    per_token = bias is not None and has_bias and bias.stride(1) != 0
    # log turns True and False into 0 and -inf.
    prompt_bias = None if prompt_mask is None else prompt_mask.to(torch.float32).log_()
    masked = prompt_mask is not None or window is not None or per_token
    on_gpu = query.device.type == "cuda"
    arch = tiles.arch_of(torch.cuda.get_device_capability(query.device)) if on_gpu else "interpreter"
    tile = tiles.select(arch, D, query.dtype, N, masked=masked)
    main, rest = tiles.split_head_dim(D, tile.block_n)

    grid = (triton.cdiv(N, tile.block_n) * B * Hq,)
    with torch.cuda.device(query.device) if on_gpu else contextlib.nullcontext():
        rectangular_forward_kernel[grid](
            query=query,
            key=key,
            value=value,
            knowledge_key=knowledge_key,
            knowledge_value=knowledge_value,
            knowledge_query=knowledge_query,
            bias=bias if has_bias else None,
            prompt_bias=prompt_bias,
            knowledge_range=knowledge_range,
            output=output,
            lse=lse,
            **_strides("query", query, "batch", "head", "row"),
            **_strides("key", key, "batch", "head", "row"),
            **_strides("value", value, "batch", "head", "row"),
            **_strides("knowledge_key", knowledge_key, "batch", "head", "row"),
            **_strides("knowledge_value", knowledge_value, "batch", "head", "row"),
            **_strides("knowledge_query", knowledge_query, "batch", "head", "row"),
            **_strides("bias", bias if has_bias else None, "batch", "token"),
            **_strides("mask", prompt_bias, "batch", "column"),
            **_strides("range", knowledge_range, "batch", "end"),
            **_strides("output", output, "batch", "head", "row"),
            B=B,
            Hq=Hq,
            N=N,
            T=T,
            M=M,
            window=window or 0,
            scale=abs(scale) * LOG2E.value,
            GROUP=Hq // Hkv,
            HEAD_DIM=D,
            DIM_MAIN=main,
            DIM_REST=rest,
            BLOCK_N=tile.block_n,
            BLOCK_M=tile.block_m,
            RAGGED_STAGES=tile.ragged_stages or tile.num_stages,
            HAS_BIAS=has_bias,
            BIAS_PER_TOKEN=per_token,
            HAS_MASK=prompt_mask is not None,
            HAS_WINDOW=window is not None,
            HAS_RANGE=knowledge_range is not None,
            IS_SHARED=is_shared,
            PRECISION=FLOAT32_PRECISION,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
    return output, lse


def _strides(name: str, tensor: Tensor | None, *axes: str) -> dict[str, int]:
    """`{name}_{axis}_stride` of the leading axes; 0 for a tensor that is not there or has one row on that axis."""
    if tensor is None:
        return {f"{name}_{axis}_stride": 0 for axis in axes}
    return {f"{name}_{axis}_stride": 0 if tensor.shape[i] == 1 else tensor.stride(i) for i, axis in enumerate(axes)}
