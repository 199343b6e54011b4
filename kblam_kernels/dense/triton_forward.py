"""Dense rectangular attention in one flash-style pass (Triton). The algorithm is described in this folder's README.

Takes what `dispatch.Triton` has no reason against, with shapes and meanings as `DenseCall`.
"""

# mypy: disable-error-code="no-untyped-def, assignment"

from __future__ import annotations

import functools
import importlib
import os
from types import ModuleType

import torch
import triton
import triton.language as tl
from torch import Tensor

from kblam_kernels.common.call import Sizes
from kblam_kernels.common.columns import without_hidden
from kblam_kernels.common.launch import (
    SIZES,
    STRIDES,
    Knowledge,
    Strides,
    attention,
    heads,
    is_fetched_whole,
    is_recorded,
    launch,
    target_arch,
)
from kblam_kernels.common.tiles import TILE_VARIABLE, Arch, Tile, precision_of
from kblam_kernels.common.triton_parts import LN2, LOG2E, load_range, store_rows, unseen
from kblam_kernels.dense.call import DenseCall
from kblam_kernels.dense.tiles import forward_tile, split_head_dim, width_to_cut
from kblam_kernels.dense.triton_spans import KernelTile, knowledge_span, load_parts, nothing, prompt_span


@triton.jit
def rows_of(heads, batch, head):
    """The rows of one head: address, stride."""
    return heads.data + batch * heads.batch + head * heads.head, heads.row


# Lengths and the strides that follow them are not specialised: a growing cache must not compile again.
@triton.jit(do_not_specialize=[*STRIDES, *SIZES, "window"])
def dense_forward_kernel(
    prompt,
    knowledge,
    bias,
    knowledge_range,
    output,
    lse,
    strides_bias, strides_range, strides_mask,
    sizes_B, sizes_Hq, sizes_Hkv, sizes_N, sizes_T, sizes_M,
    window,
    scale,
    GROUP: tl.constexpr,
    TILE: tl.constexpr,
    IS_SHARED: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_N queries of one head against all columns they see.

    `scale` has log2(e) folded in; the mask is float32, 0 or -inf, and is added to scores.
    """
    strides = Strides(strides_bias, strides_range, strides_mask)
    sizes = Sizes(sizes_B, sizes_Hq, sizes_Hkv, sizes_N, sizes_T, sizes_M)
    B, Hq, N, T, M = sizes.B, sizes.Hq, sizes.N, sizes.T, sizes.M
    # Neighbouring programs read the same columns, so that these are in L2: first the tiles of one head, then,
    # when the batch shares its knowledge, the batch rows of that head, else the heads of one prompt group.
    program = tl.program_id(0)
    row_tiles = tl.cdiv(N, TILE.BLOCK_N)
    # Later tiles see more prompt: starting with them leaves the short ones to fill the end of the last wave.
    first_row = (row_tiles - 1 - program % row_tiles) * TILE.BLOCK_N
    outer = program // row_tiles
    if IS_SHARED:
        batch = (outer % B).to(tl.int64)
        head = (outer // B).to(tl.int64)
    else:
        head = (outer % Hq).to(tl.int64)
        batch = (outer // Hq).to(tl.int64)

    row = first_row + tl.arange(0, TILE.BLOCK_N)
    row_max, row_sum = unseen(TILE.BLOCK_N)
    state = (nothing(TILE), row_max, row_sum)

    # The prompt: whole tiles in the middle, ragged ones where the window opens and where causality cuts.
    q = load_parts(rows_of(prompt.query, batch, head), first_row, N, TILE.BLOCK_N, TILE)
    key = rows_of(prompt.key, batch, head // GROUP)
    value = rows_of(prompt.value, batch, head // GROUP)
    mask = None
    if prompt.mask is not None:
        mask = (prompt.mask.data + batch * strides.mask, prompt.mask.column)
    last_column = T - N + row  # [BLOCK_N]
    prompt_end = tl.minimum(T - N + first_row + TILE.BLOCK_N, T)
    full_start = 0
    if window is not None:
        open_start = tl.maximum(T - N + first_row - window + 1, 0)
        # The first column that the tile's last row still sees, rounded up to a whole tile.
        full_start = tl.maximum(T - N + first_row + TILE.BLOCK_N - window, open_start)
        full_start = open_start + tl.cdiv(full_start - open_start, TILE.BLOCK_M) * TILE.BLOCK_M
        full_start = tl.minimum(full_start, prompt_end)
        state = prompt_span(
            state, q, key, value, mask, scale, open_start, full_start, T, last_column, window, TILE, True
        )
    full_end = full_start + tl.maximum(T - N + first_row + 1 - full_start, 0) // TILE.BLOCK_M * TILE.BLOCK_M
    state = prompt_span(state, q, key, value, mask, scale, full_start, full_end, T, last_column, window, TILE, False)
    state = prompt_span(state, q, key, value, mask, scale, full_end, prompt_end, T, last_column, window, TILE, True)

    # A padding row sees no prompt column, so no knowledge either. The prompt is processed first, so this is known here.
    # Without a prompt there is no padding.
    sees_prompt = (state[1] > float("-inf")) | (T == 0)

    # The knowledge: whole tiles, then one ragged tile.
    knowledge_start = 0
    knowledge_end = M
    if knowledge_range is not None:
        range_base = knowledge_range.data + batch * strides.range
        knowledge_start, knowledge_end = load_range(range_base, knowledge_range.column, M)
    if prompt.mask is not None:
        # A tile with only padding rows has nothing to read.
        anyone = tl.max(sees_prompt.to(tl.int32), 0)
        knowledge_end = tl.where(anyone > 0, knowledge_end, knowledge_start)
    shift = 0.0
    token_bias = None
    if bias is not None:
        token_bias = (bias.data + batch * strides.bias, bias.column)
        if not TILE.BIAS_PER_TOKEN:
            shift = tl.load(token_bias[0]) * LOG2E
            # -inf hides the whole list.
            knowledge_end = tl.where(shift == float("-inf"), knowledge_start, knowledge_end)
            shift = tl.where(shift == float("-inf"), 0.0, shift)
    r = load_parts(rows_of(knowledge.query, batch, head), first_row, N, TILE.BLOCK_N, TILE)
    key = rows_of(knowledge.key, batch, head)
    value = rows_of(knowledge.value, batch, head)
    whole_end = knowledge_start + tl.maximum(knowledge_end - knowledge_start, 0) // TILE.BLOCK_M * TILE.BLOCK_M
    state = knowledge_span(
        state, r, key, value, token_bias, scale, shift, knowledge_start, whole_end, knowledge_end, TILE, False
    )
    acc, row_max, row_sum = knowledge_span(
        state, r, key, value, token_bias, scale, shift, whole_end, knowledge_end, knowledge_end, TILE, True
    )

    sees_prompt = sees_prompt & ((T > 0) | (row_max > float("-inf")))  # knowledge alone, and none of it
    total = tl.where(sees_prompt, row_sum, 1.0)
    inverse = tl.where(sees_prompt, 1.0 / total, 0.0)
    row_lse = tl.where(sees_prompt, (row_max + tl.math.log2(total)) * LN2, float("-inf"))
    # Rows are counted from the tile's first row, so that no address from above has to stay in registers.
    local_row = tl.arange(0, TILE.BLOCK_N)
    stored = local_row < N - first_row
    tl.store(lse + (batch * Hq + head) * N + first_row + local_row, row_lse, mask=stored)
    output_base = rows_of(output, batch, head)[0] + first_row.to(tl.int64) * output.row
    PARTS: tl.constexpr = TILE.PARTS
    for i in tl.static_range(PARTS):
        tile = tl.where(sees_prompt[:, None], acc[i] * inverse[:, None], 0.0)  # a row of padding may be NaN
        store_rows(output_base, tile, stored, output.row, TILE.STARTS[i], TILE.SIZES[i], TILE.WIDTH)


def kernel_tile(
    D: int, tile: Tile, ragged_stages: int, *, bias_per_token: bool, width: int | None = None
) -> KernelTile:
    """A tile for heads of width D, which are cut as if they had `width`."""
    sizes = split_head_dim(width or D, tile.block_rows)
    return KernelTile(
        WIDTH=D,
        PARTS=len(sizes),
        STARTS=(0, *sizes[:-1]),
        SIZES=sizes,
        BLOCK_N=tile.block_rows,
        BLOCK_M=tile.block_m,
        RAGGED_STAGES=ragged_stages,
        BIAS_PER_TOKEN=bias_per_token,
    )


def shown(call: DenseCall) -> DenseCall:
    """A call whose prompt mask is 0 where it shows a column and -inf where it hides it, and whose hidden columns are 0.

    Copies, since what is hidden may be NaN, which neither -inf nor weight 0 would hide; small beside a prefill.
    """
    if (mask := call.prompt_mask) is None:
        return call
    columns = {name: without_hidden(getattr(call, name), mask, slice(None)) for name in ("key", "value")}
    return call.but(prompt_mask=mask.float().log_(), **columns)  # the logarithms of True and False


# Of Hopper's own kernel: two of its row tiles. The shortest that was timed are 1,024.
FEWEST_HOPPER_ROWS = 256
# The releases of Triton whose Gluon it was written for; Gluon is experimental there.
GLUON_RELEASES = ("3.6", "3.7", "3.8", "3.9")


def is_for_hopper(call: DenseCall, arch: Arch) -> bool:
    """Whether Hopper's own kernel takes a call: nothing masked, one bias for the list or none, 16 bits, heads of 128.

    It looks at nothing that depends on the batch: a row must have the bits that it has alone.
    """
    return (
        arch == "sm_90"
        and call.query.dtype in (torch.bfloat16, torch.float16)
        and call.width == 128
        and call.query.shape[2] >= FEWEST_HOPPER_ROWS
        and call.num_tokens > 0
        and not call.is_alone
        and call.prompt_mask is None
        and call.window is None
        and call.knowledge_range is None
        and (call.bias is None or call.bias.stride(1) == 0)
        and call.scale != 0  # times -inf it would be NaN
        and not os.environ.get(TILE_VARIABLE)
    )


def gluon_kernel() -> ModuleType | None:
    """Hopper's own kernel, where Triton has the Gluon that it was written for."""
    if ".".join(triton.__version__.split(".")[:2]) not in GLUON_RELEASES:
        return None
    try:
        return importlib.import_module("kblam_kernels.dense.gluon_forward")
    except (ImportError, AttributeError):
        return None


@functools.cache
def hopper_kernel() -> ModuleType | None:
    """The same where kernels are compiled: no interpreter runs it."""
    return gluon_kernel() if isinstance(dense_forward_kernel, triton.JITFunction) else None


def forward(call: DenseCall) -> tuple[Tensor, Tensor]:
    """Output (B, Hq, N, D) in the dtype of the query and natural-log lse (B, Hq, N) float32, in one launch."""
    B, Hq, N, D = call.query.shape
    if call.query.numel() == 0:
        return call.empty()
    bias = call.bias if call.num_tokens > 0 else None
    per_token = bias is not None and bias.stride(1) != 0
    masked = call.prompt_mask is not None or call.window is not None or per_token
    call = shown(call.but(bias=bias))
    if call.scale < 0:
        # The kernel takes the row maximum before it scales.
        call = call.but(query=-call.query, knowledge_query=-call.knowledge_query, scale=-call.scale)
    arch, precision = target_arch(call.query), precision_of(call.query.dtype)
    # Recorded launches are of `dense_forward_kernel`, which every Triton has; `tools/cases.py` asks for the other.
    if is_for_hopper(call, arch) and not is_recorded() and (hopper := hopper_kernel()) is not None:
        return hopper.forward(call)
    output, lse = call.empty()
    whole = is_fetched_whole(call.key, call.value, call.knowledge_key, call.knowledge_value)
    width = width_to_cut(D, arch, precision, fetched_whole=whole)
    tile = forward_tile(arch, width, precision, N, masked=masked)
    launch(
        dense_forward_kernel,
        (triton.cdiv(N, tile.block_rows) * B * Hq,),
        tile,
        call.query,
        **attention(call),
        knowledge=Knowledge(heads(call.knowledge_query), heads(call.knowledge_key), heads(call.knowledge_value)),
        output=heads(output),
        lse=lse,
        GROUP=Hq // call.key.shape[1],
        TILE=kernel_tile(D, tile, tile.ragged_stages or tile.num_stages, bias_per_token=per_token, width=width),
        IS_SHARED=call.knowledge_key.dim() == 3,
    )
    return output, lse
