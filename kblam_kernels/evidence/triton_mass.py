"""Attention mass of each knowledge token (Triton): one pass over the keys, O(M) memory, deterministic.

A program has BLOCK_M tokens of one batch row for itself and walks over all heads and queries: no partial results, no
atomic addition. Accepts what attention of the same layout accepts; lse float32, row_weight of any dtype.
No host synchronisation and no shape that depends on data.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

from kblam_kernels.evidence.tiles import MassTile, is_unrolled, mass_tile
from kblam_kernels.latent.tiles import storage_of
from kblam_kernels.latent.triton_storage import as_numbers
from kblam_kernels.rectangular.chunks import chunk_of, named_strides
from kblam_kernels.rectangular.triton_forward import FLOAT32_PRECISION
from kblam_kernels.rectangular.triton_parts import LOG2E, load_range, product
from kblam_kernels.rectangular.triton_split import gather_rows, load_tile


@triton.jit
def _add_chunk(
    score,
    pointers,
    present,
    key_base,
    first,
    inside,
    key_row_stride,
    start,
    BLOCK_M: tl.constexpr,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
    IS_PADDED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """score + rows @ key.T over the columns [start, start + CHUNK)."""
    a = gather_rows(pointers + start, present, WIDTH - start, 1, CHUNK, IS_PADDED)[0]
    tile = load_tile(key_base + start, first, inside, key_row_stride, WIDTH - start, BLOCK_M, 0, CHUNK, IS_PADDED)
    return product(a, tl.trans(as_numbers(tile, a.dtype)), score, PRECISION)


# Lengths are not specialised: a growing knowledge base must not compile again.
@triton.jit(do_not_specialize=["B", "Hq", "N", "M", "heads", "rows", "bias_batch_stride"])
def evidence_mass_kernel(
    rows_of,
    key,
    norm,
    key_scale,
    constant,
    lse,
    bias,
    knowledge_range,
    row_weight,
    mass,
    rows_batch_stride,
    rows_head_stride,
    rows_row_stride,
    key_batch_stride,
    key_head_stride,
    key_row_stride,
    bias_batch_stride,
    bias_token_stride,
    range_batch_stride,
    range_end_stride,
    B,
    Hq,
    N,
    M,
    heads,
    rows,
    scale,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
    IS_PADDED: tl.constexpr,
    UNROLLED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    KEY_GAIN: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_RANGE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program: BLOCK_M tokens of a batch row. Keys have `heads` heads; each is met by `rows` rows, counted
    (head, query). `scale` has log2(e) folded in.
    """
    program = tl.program_id(0)
    # Batch rows that share their keys are neighbours, so that they meet in L2.
    batch = (program % B).to(tl.int64)
    first = program // B * BLOCK_M
    token = first + tl.arange(0, BLOCK_M)
    begin = 0
    stop = M
    if HAS_RANGE:
        begin, stop = load_range(knowledge_range + batch * range_batch_stride, range_end_stride, M)
    inside = (token >= begin) & (token < stop)
    # What is outside the row's range is not read.
    steps = tl.where((first < stop) & (first + BLOCK_M > begin), heads * tl.cdiv(rows, BLOCK_ROWS), 0)
    if HAS_NORM:
        factor = tl.load(norm + token, mask=inside, other=0.0) * scale
    else:
        factor = tl.full([BLOCK_M], scale, dtype=tl.float32)
    if HAS_SCALE:
        gain = tl.load(key_scale + token, mask=inside, other=0.0) * KEY_GAIN
    if HAS_BIAS:
        bias_of = bias + batch * bias_batch_stride + token.to(tl.int64) * bias_token_stride
        shift = tl.load(bias_of, mask=inside, other=float("-inf")) * LOG2E
    else:
        shift = tl.where(inside, 0.0, float("-inf"))
    key_base = key + batch * key_batch_stride
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    for step in range(0, steps):
        key_head = step % heads
        local = step // heads * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        present = local < rows
        head = key_head + local // N
        new = local % N
        pointers = rows_of + batch * rows_batch_stride + head.to(tl.int64) * rows_head_stride
        pointers += new.to(tl.int64) * rows_row_stride
        score = tl.zeros([BLOCK_ROWS, BLOCK_M], dtype=tl.float32)
        head_base = key_base + key_head.to(tl.int64) * key_head_stride
        if UNROLLED:
            # Keys of the next head are fetched while this one's are multiplied.
            for i in tl.static_range(0, WIDTH, CHUNK):
                score = _add_chunk(
                    score, pointers, present, head_base, first, inside, key_row_stride, i,
                    BLOCK_M, WIDTH, CHUNK, IS_PADDED, PRECISION,
                )  # fmt: skip
        else:
            for start in range(0, WIDTH, CHUNK):
                score = _add_chunk(
                    score, pointers, present, head_base, first, inside, key_row_stride, start,
                    BLOCK_M, WIDTH, CHUNK, IS_PADDED, PRECISION,
                )  # fmt: skip
        at = (batch * Hq + head) * N + new
        # A row that saw nothing has lse -inf and gives nothing.
        level = tl.load(lse + at, mask=present, other=float("-inf"))
        level = tl.where(level == float("-inf"), float("inf"), level * LOG2E)
        weight = tl.load(row_weight + at, mask=present, other=0.0)
        if HAS_SCALE:
            score *= gain[None, :]
        if HAS_NORM:
            score += tl.load(constant + at, mask=present, other=0.0)[:, None]
        p = tl.math.exp2(score * factor[None, :] + shift[None, :] - level[:, None])  # [BLOCK_ROWS, BLOCK_M]
        total += tl.sum(p * weight[:, None], 0)
    tl.store(mass + batch * M + token, total, mask=token < M)


def mass(
    rows: Tensor,
    key: Tensor,
    norm: Tensor | None,
    key_scale: Tensor | None,
    constant: Tensor | None,
    lse: Tensor,
    bias: Tensor | None,
    knowledge_range: Tensor | None,
    row_weight: Tensor,
    scale: float,
    tile: MassTile | None = None,
) -> Tensor:
    """`reference.mass` in one launch. `tile` is for tests and tuning; None takes that of the table."""
    B, Hq, N, W = rows.shape
    M = key.shape[-2]
    result = torch.empty(B, M, dtype=lse.dtype, device=lse.device)
    if result.numel() == 0:
        return result
    # Latents are one head that the queries of all heads meet.
    heads, rows_of_head = (1, Hq * N) if key.dim() == 2 else (Hq, N)
    tile = tile or mass_tile(rows_of_head, rows.element_size())
    storage = storage_of(key.dtype)
    if key.dtype == torch.float8_e4m3fn:
        key = key.view(torch.uint8)
    key = key[(None,) * (4 - key.dim())]
    chunk = chunk_of(W, tile.chunk)
    on_gpu = rows.device.type == "cuda"
    with torch.cuda.device(rows.device) if on_gpu else contextlib.nullcontext():
        evidence_mass_kernel[(triton.cdiv(M, tile.block_m) * B,)](
            rows_of=rows,
            key=key,
            norm=norm,
            key_scale=key_scale,
            constant=None if constant is None else constant.contiguous(),
            lse=lse.contiguous(),
            bias=bias,
            knowledge_range=knowledge_range,
            row_weight=row_weight.to(torch.float32).contiguous(),
            mass=result,
            **named_strides("rows", rows, "batch", "head", "row"),
            **named_strides("key", key, "batch", "head", "row"),
            **named_strides("bias", bias, "batch", "token"),
            **named_strides("range", knowledge_range, "batch", "end"),
            B=B,
            Hq=Hq,
            N=N,
            M=M,
            heads=heads,
            rows=rows_of_head,
            scale=scale * LOG2E.value,
            WIDTH=W,
            CHUNK=chunk,
            IS_PADDED=W % chunk != 0,
            UNROLLED=is_unrolled(W, tile),
            BLOCK_ROWS=tile.block_rows,
            BLOCK_M=tile.block_m,
            KEY_GAIN=storage.gain,
            HAS_NORM=norm is not None,
            HAS_SCALE=key_scale is not None,
            HAS_BIAS=bias is not None,
            HAS_RANGE=knowledge_range is not None,
            PRECISION=FLOAT32_PRECISION,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
    return result
