"""Dense rectangular attention in one flash-style pass (Triton). The algorithm is described in this folder's README.

What the launcher accepts (`dispatch` refuses everything else before it gets here):

- CUDA tensors, or CPU tensors when TRITON_INTERPRET=1 was set before triton was imported;
- float32, float16 or bfloat16, one dtype for all but bias (float32), mask (bool) and range (int32 or int64);
- head_dim up to 256, any strides with a contiguous last dimension;
- shapes and meanings as `DenseCall`.

No host synchronisation and no shape that depends on data: a CUDA graph can capture a call.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kblam_kernels.common.launch import heads, launch, masks, prompt, sizes_of, target_arch
from kblam_kernels.common.output import empty_output
from kblam_kernels.common.tiles import precision_of
from kblam_kernels.common.triton_parts import LN2, LOG2E, load_range, load_rows, store_rows
from kblam_kernels.dense.call import DenseCall
from kblam_kernels.dense.tiles import forward_tile, split_head_dim
from kblam_kernels.dense.triton_spans import knowledge_span, prompt_span


# Lengths and the strides that follow them are not specialised: a growing cache must not compile again.
@triton.jit(do_not_specialize=["sizes", "window", "bias_batch_stride", "mask_batch_stride", "range_batch_stride"])
def dense_forward_kernel(
    query,
    key,
    value,
    knowledge_key,
    knowledge_value,
    knowledge_query,
    bias,
    prompt_mask,
    knowledge_range,
    output,
    lse,
    bias_batch_stride,
    mask_batch_stride,
    range_batch_stride,
    sizes,
    window,
    scale,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM_MAIN: tl.constexpr,
    DIM_REST: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    RAGGED_STAGES: tl.constexpr,
    BIAS_PER_TOKEN: tl.constexpr,
    IS_SHARED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program: BLOCK_N queries of one head against all columns they see.

    Tensors are `Heads`, bias, mask and range `Columns`; absent ones are None. `scale` has log2(e) folded in; the
    mask is float32, 0 or -inf, and is added to scores.
    """
    B, Hq, N, T, M = sizes.B, sizes.Hq, sizes.N, sizes.T, sizes.M
    # Neighbouring programs read the same columns, so that these are in L2: first the tiles of one head, then,
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
    # Unused when head_dim is a single part; the compiler removes it.
    acc_rest = tl.zeros([BLOCK_N, DIM_REST if DIM_REST > 0 else 16], dtype=tl.float32)
    row_max = tl.full([BLOCK_N], float("-inf"), dtype=tl.float32)
    row_sum = tl.zeros([BLOCK_N], dtype=tl.float32)

    # The prompt: whole tiles in the middle, ragged ones where the window opens and where causality cuts.
    query_base = query.data + batch * query.batch + head * query.head
    q = load_rows(query_base, first_row, N, query.row, BLOCK_N, 0, DIM_MAIN, HEAD_DIM, True)
    q_rest = q
    if DIM_REST > 0:
        q_rest = load_rows(query_base, first_row, N, query.row, BLOCK_N, DIM_MAIN, DIM_REST, HEAD_DIM, True)
    key_base = key.data + batch * key.batch + head // GROUP * key.head
    value_base = value.data + batch * value.batch + head // GROUP * value.head
    mask_base, mask_stride = None, 0
    if prompt_mask is not None:
        mask_base, mask_stride = prompt_mask.data + batch * mask_batch_stride, prompt_mask.column
    last_column = T - N + row  # [BLOCK_N]
    prompt_end = tl.minimum(T - N + first_row + BLOCK_N, T)
    full_start = 0
    if window is not None:
        open_start = tl.maximum(T - N + first_row - window + 1, 0)
        # The first column that the tile's last row still sees, rounded up to a whole tile.
        full_start = tl.maximum(T - N + first_row + BLOCK_N - window, open_start)
        full_start = tl.minimum(open_start + tl.cdiv(full_start - open_start, BLOCK_M) * BLOCK_M, prompt_end)
        acc, acc_rest, row_max, row_sum = prompt_span(
            acc, acc_rest, row_max, row_sum, q, q_rest, key_base, value_base, mask_base,
            key.row, value.row, mask_stride, scale,
            open_start, full_start, T, last_column, window,
            BLOCK_M, HEAD_DIM, DIM_MAIN, DIM_REST, True, RAGGED_STAGES, PRECISION,
        )  # fmt: skip
    full_end = full_start + tl.maximum(T - N + first_row + 1 - full_start, 0) // BLOCK_M * BLOCK_M
    acc, acc_rest, row_max, row_sum = prompt_span(
        acc, acc_rest, row_max, row_sum, q, q_rest, key_base, value_base, mask_base,
        key.row, value.row, mask_stride, scale,
        full_start, full_end, T, last_column, window,
        BLOCK_M, HEAD_DIM, DIM_MAIN, DIM_REST, False, RAGGED_STAGES, PRECISION,
    )  # fmt: skip
    acc, acc_rest, row_max, row_sum = prompt_span(
        acc, acc_rest, row_max, row_sum, q, q_rest, key_base, value_base, mask_base,
        key.row, value.row, mask_stride, scale,
        full_end, prompt_end, T, last_column, window,
        BLOCK_M, HEAD_DIM, DIM_MAIN, DIM_REST, True, RAGGED_STAGES, PRECISION,
    )  # fmt: skip

    # A padding row sees no prompt column, so no knowledge either. The prompt is processed first, so this is known here.
    sees_prompt = row_max > float("-inf")

    # The knowledge: whole tiles, then one ragged tile.
    knowledge_start = 0
    knowledge_end = M
    if knowledge_range is not None:
        range_base = knowledge_range.data + batch * range_batch_stride
        knowledge_start, knowledge_end = load_range(range_base, knowledge_range.column, M)
    if prompt_mask is not None:
        # A tile with only padding rows has nothing to read.
        anyone = tl.max(sees_prompt.to(tl.int32), 0)
        knowledge_end = tl.where(anyone > 0, knowledge_end, knowledge_start)
    shift = 0.0
    bias_base, bias_stride = None, 0
    if bias is not None:
        bias_base, bias_stride = bias.data + batch * bias_batch_stride, bias.column
        if not BIAS_PER_TOKEN:
            shift = tl.load(bias_base) * LOG2E
            # -inf hides the whole list.
            knowledge_end = tl.where(shift == float("-inf"), knowledge_start, knowledge_end)
            shift = tl.where(shift == float("-inf"), 0.0, shift)
    r_base = knowledge_query.data + batch * knowledge_query.batch + head * knowledge_query.head
    r = load_rows(r_base, first_row, N, knowledge_query.row, BLOCK_N, 0, DIM_MAIN, HEAD_DIM, True)
    r_rest = r
    if DIM_REST > 0:
        r_rest = load_rows(r_base, first_row, N, knowledge_query.row, BLOCK_N, DIM_MAIN, DIM_REST, HEAD_DIM, True)
    kappa_base = knowledge_key.data + batch * knowledge_key.batch + head * knowledge_key.head
    nu_base = knowledge_value.data + batch * knowledge_value.batch + head * knowledge_value.head
    whole_end = knowledge_start + tl.maximum(knowledge_end - knowledge_start, 0) // BLOCK_M * BLOCK_M
    acc, acc_rest, row_max, row_sum = knowledge_span(
        acc, acc_rest, row_max, row_sum, r, r_rest, kappa_base, nu_base, bias_base,
        knowledge_key.row, knowledge_value.row, bias_stride, scale, shift,
        knowledge_start, whole_end, knowledge_end,
        BLOCK_M, HEAD_DIM, DIM_MAIN, DIM_REST, BIAS_PER_TOKEN, False, RAGGED_STAGES, PRECISION,
    )  # fmt: skip
    acc, acc_rest, row_max, row_sum = knowledge_span(
        acc, acc_rest, row_max, row_sum, r, r_rest, kappa_base, nu_base, bias_base,
        knowledge_key.row, knowledge_value.row, bias_stride, scale, shift,
        whole_end, knowledge_end, knowledge_end,
        BLOCK_M, HEAD_DIM, DIM_MAIN, DIM_REST, BIAS_PER_TOKEN, True, RAGGED_STAGES, PRECISION,
    )  # fmt: skip

    total = tl.where(sees_prompt, row_sum, 1.0)
    inverse = tl.where(sees_prompt, 1.0 / total, 0.0)
    row_lse = tl.where(sees_prompt, (row_max + tl.math.log2(total)) * LN2, float("-inf"))
    # Rows are counted from the tile's first row, so that no address from above has to stay in registers.
    local_row = tl.arange(0, BLOCK_N)
    stored = local_row < N - first_row
    tl.store(lse + (batch * Hq + head) * N + first_row + local_row, row_lse, mask=stored)
    output_base = output.data + batch * output.batch + head * output.head
    output_base += first_row.to(tl.int64) * output.row
    store_rows(output_base, acc * inverse[:, None], stored, output.row, 0, DIM_MAIN, HEAD_DIM)
    if DIM_REST > 0:
        store_rows(output_base, acc_rest * inverse[:, None], stored, output.row, DIM_MAIN, DIM_REST, HEAD_DIM)


def forward(call: DenseCall) -> tuple[Tensor, Tensor]:
    """Output (B, Hq, N, D) in the dtype of the query and natural-log lse (B, Hq, N) float32, in one launch."""
    query, knowledge_query, scale = call.query, call.knowledge_query, call.scale
    B, Hq, N, D = query.shape
    M = call.knowledge_key.shape[-2]
    output, lse = empty_output(query)
    if output.numel() == 0:
        return output, lse
    if scale < 0:
        # The kernel takes the row maximum before it scales.
        query, knowledge_query, scale = -query, -knowledge_query, -scale
    bias = call.bias if M > 0 else None
    per_token = bias is not None and bias.stride(1) != 0
    # 0 where it shows a column, -inf where it hides it: the logarithms of True and False.
    prompt_mask = None if call.prompt_mask is None else call.prompt_mask.float().log_()
    masked = call.prompt_mask is not None or call.window is not None or per_token
    tile = forward_tile(target_arch(query), D, precision_of(query.dtype), N, masked=masked)
    main, rest = split_head_dim(D, tile.block_rows)
    launch(
        dense_forward_kernel,
        (triton.cdiv(N, tile.block_rows) * B * Hq,),
        tile,
        query,
        **(prompt(call, prompt_mask) | {"query": heads(query)}),
        **masks(bias, call.knowledge_range),
        knowledge_key=heads(call.knowledge_key),
        knowledge_value=heads(call.knowledge_value),
        knowledge_query=heads(knowledge_query),
        output=heads(output),
        lse=lse,
        sizes=sizes_of(call, M),
        scale=scale * LOG2E.value,
        DIM_MAIN=main,
        DIM_REST=rest,
        BLOCK_N=tile.block_rows,
        BLOCK_M=tile.block_m,
        RAGGED_STAGES=tile.ragged_stages or tile.num_stages,
        BIAS_PER_TOKEN=per_token,
        IS_SHARED=call.knowledge_key.dim() == 3,
    )
    return output, lse
