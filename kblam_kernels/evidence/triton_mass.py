"""Attention mass of each knowledge token (Triton): one pass over the keys, O(M) memory, deterministic.

A program handles BLOCK_M tokens of one batch row and loops over all heads and queries: no partial results, no atomic
addition. Accepts what attention of the same layout accepts; lse float32, row_weight of any dtype.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from kblam_kernels.common.call import Sizes
from kblam_kernels.common.launch import SIZES, STRIDES, Strides, chunks, heads, launch, target_arch, visibility
from kblam_kernels.common.native import contiguous_or_none
from kblam_kernels.common.splits import chunk_of
from kblam_kernels.common.tiles import precision_of, select
from kblam_kernels.common.triton_parts import LOG2E, load_range, product, zeros
from kblam_kernels.common.triton_split import as_numbers, gather_rows, load_tile
from kblam_kernels.evidence.call import EvidenceCall
from kblam_kernels.evidence.tiles import TILES, MassTile, is_unrolled
from kblam_kernels.latent.tiles import as_bits, storage_of


@triton.jit
def _add_chunk(score, rows, present, key_base, first, inside, stride, start, KEY: tl.constexpr, BLOCK: tl.constexpr):
    """score + rows @ key.T over one chunk of columns, from `start`."""
    query = gather_rows(rows + start, present, KEY.WIDTH - start, 1, KEY)[0]
    tile = load_tile(key_base + start, first, inside, stride, KEY.WIDTH - start, 0, KEY, BLOCK)
    return product(query, tl.trans(as_numbers(tile, query.dtype)), score)


@triton.jit(do_not_specialize=[*STRIDES, *SIZES, "heads", "rows_of_head"])
def evidence_mass_kernel(
    rows,
    key,
    norm,
    key_scale,
    constant,
    lse,
    bias,
    knowledge_range,
    row_weight,
    mass,
    strides_bias, strides_range, strides_mask,
    sizes_B, sizes_Hq, sizes_Hkv, sizes_N, sizes_T, sizes_M,
    heads,
    rows_of_head,
    scale,
    KEY: tl.constexpr,
    UNROLLED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    KEY_GAIN: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M tokens of a batch row. Keys have `heads` heads; each is multiplied with `rows_of_head` rows,
    counted (head, query). `scale` has log2(e) folded in.
    """
    strides = Strides(strides_bias, strides_range, strides_mask)
    sizes = Sizes(sizes_B, sizes_Hq, sizes_Hkv, sizes_N, sizes_T, sizes_M)
    N, M = sizes.N, sizes.M
    program = tl.program_id(0)
    # Batch rows that share their keys are neighbours, so that the keys are in L2.
    batch = (program % sizes.B).to(tl.int64)
    first = program // sizes.B * BLOCK_M
    token = first + tl.arange(0, BLOCK_M)
    begin = 0
    stop = M
    if knowledge_range is not None:
        begin, stop = load_range(knowledge_range.data + batch * strides.range, knowledge_range.column, M)
    inside = (token >= begin) & (token < stop)
    # Tokens outside the row's range are not read.
    steps = tl.where((first < stop) & (first + BLOCK_M > begin), heads * tl.cdiv(rows_of_head, BLOCK_ROWS), 0)
    if norm is not None:
        factor = tl.load(norm + token, mask=inside, other=0.0) * scale
    else:
        factor = tl.full([BLOCK_M], scale, dtype=tl.float32)
    if key_scale is not None:
        gain = tl.load(key_scale + token, mask=inside, other=0.0) * KEY_GAIN
    if bias is not None:
        bias_of = bias.data + batch * strides.bias + token.to(tl.int64) * bias.column
        shift = tl.load(bias_of, mask=inside, other=float("-inf")) * LOG2E
    else:
        shift = tl.where(inside, 0.0, float("-inf"))
    key_base = key.data + batch * key.batch
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    for step in range(0, steps):
        key_head = step % heads
        local = step // heads * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        present = local < rows_of_head
        head = key_head + local // N
        new = local % N
        pointers = rows.data + batch * rows.batch + head.to(tl.int64) * rows.head
        pointers += new.to(tl.int64) * rows.row
        head_base = key_base + key_head.to(tl.int64) * key.head
        score = zeros(BLOCK_ROWS, BLOCK_M)
        if UNROLLED:
            # Keys of the next head are fetched while this one's are multiplied.
            COUNT: tl.constexpr = KEY.COUNT
            for i in tl.static_range(COUNT):
                start = i * KEY.SIZE
                score = _add_chunk(score, pointers, present, head_base, first, inside, key.row, start, KEY, BLOCK_M)
        else:
            for start in range(0, KEY.WIDTH, KEY.SIZE):
                score = _add_chunk(score, pointers, present, head_base, first, inside, key.row, start, KEY, BLOCK_M)
        at = (batch * sizes.Hq + head) * N + new
        # A row that saw nothing has lse -inf and adds nothing, nor does one of weight 0.
        level = tl.load(lse + at, mask=present, other=float("-inf"))
        weight = tl.load(row_weight + at, mask=present, other=0.0)
        level = tl.where((level == float("-inf")) | (weight == 0.0), float("inf"), level * LOG2E)
        if key_scale is not None:
            score *= gain[None, :]
        if norm is not None:
            score += tl.load(constant + at, mask=present, other=0.0)[:, None]
        p = tl.math.exp2(score * factor[None, :] + shift[None, :] - level[:, None])  # [BLOCK_ROWS, BLOCK_M]
        p = tl.where((level < float("inf"))[:, None], p, 0.0)  # their scores may be NaN
        total += tl.sum(p * weight[:, None], 0)
    tl.store(mass + batch * M + token, total, mask=token < M)


def forward(call: EvidenceCall, tile: MassTile | None = None) -> tuple[Tensor]:
    """As `reference.forward`, in one launch. `tile` is for tests and tuning; None takes the one from the table."""
    rows, M = call.rows, call.num_tokens
    B, Hq, N, W = rows.shape
    (result,) = call.empty()
    if result.numel() == 0:
        return (result,)
    # Latents are one key head for the queries of all heads.
    key_heads, rows_of_head = (1, Hq * N) if call.is_latent else (Hq, N)
    tile = tile or select(TILES, target_arch(rows), precision_of(rows.dtype), W, rows_of_head)
    launch(
        evidence_mass_kernel,
        (triton.cdiv(M, tile.block_m) * B,),
        tile,
        rows,
        rows=heads(rows),
        key=heads(as_bits(call.key)),
        norm=contiguous_or_none(call.norm),
        key_scale=contiguous_or_none(call.key_scale),
        constant=contiguous_or_none(call.constant),
        lse=call.lse.contiguous(),
        **visibility(call.bias, call.knowledge_range),
        row_weight=call.row_weight.float().contiguous(),
        mass=result,
        sizes=Sizes(B, Hq, key_heads, N, N, M),
        heads=key_heads,
        rows_of_head=rows_of_head,
        scale=call.scale * LOG2E.value,
        KEY=chunks(W, chunk_of(W, tile.chunk)),
        UNROLLED=is_unrolled(W, tile),
        BLOCK_ROWS=tile.block_rows,
        BLOCK_M=tile.block_m,
        KEY_GAIN=storage_of(call.key.dtype).gain,
    )
    return (result,)
