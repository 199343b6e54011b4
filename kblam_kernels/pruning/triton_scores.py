"""Scores of knowledge tokens summed over heads and queries (Triton): one pass over the keys, O(M) memory.

Batch rows that share one list are the rows of one matrix product, so that a key is read once for the batch. Products
are in float32 whatever the keys are (`tf32x3`): memory is the limit, and a choice should not depend on rounding.
"""

# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

from kblam_kernels.latent.tiles import storage_of
from kblam_kernels.latent.triton_storage import as_numbers
from kblam_kernels.pruning.tiles import BLOCK_M, BLOCK_ROWS, NUM_STAGES, NUM_WARPS, WIDEST_CHUNK
from kblam_kernels.rectangular.chunks import chunk_of, named_strides
from kblam_kernels.rectangular.triton_forward import FLOAT32_PRECISION
from kblam_kernels.rectangular.triton_parts import product
from kblam_kernels.rectangular.triton_split import gather_rows, load_tile


# Lengths are not specialised: a growing knowledge base must not compile again.
@triton.jit(do_not_specialize=["M", "heads", "rows", "row_tiles", "tiles"])
def summed_scores_kernel(
    rows_of,
    key,
    norm,
    key_scale,
    constant,
    scores,
    rows_batch_stride,
    rows_head_stride,
    key_batch_stride,
    key_head_stride,
    key_row_stride,
    M,
    heads,
    rows,
    row_tiles,
    tiles,
    WIDTH: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    IS_PADDED: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    KEY_GAIN: tl.constexpr,
    HAS_NORM: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program: BLOCK_ROWS of the `rows` batch rows that share a list against BLOCK_M of its tokens."""
    program = tl.program_id(0)
    local = program % row_tiles * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    first = program // row_tiles % tiles * BLOCK_M
    group = (program // (row_tiles * tiles)).to(tl.int64)
    present = local < rows
    batch = group * rows + local
    token = first + tl.arange(0, BLOCK_M)
    inside = token < M
    key_base = key + group * key_batch_stride
    score = tl.zeros([BLOCK_ROWS, BLOCK_M], dtype=tl.float32)
    # One loop over heads and chunks: the next head's keys are fetched while these are multiplied.
    for step in range(0, heads * CHUNKS):
        head = tl.cast(step // CHUNKS, tl.int64)
        start = step % CHUNKS * CHUNK
        pointers = rows_of + batch * rows_batch_stride + head * rows_head_stride + start
        a = gather_rows(pointers, present, WIDTH - start, 1, CHUNK, IS_PADDED)[0]
        head_base = key_base + head * key_head_stride + start
        tile = load_tile(head_base, first, inside, key_row_stride, WIDTH - start, BLOCK_M, 0, CHUNK, IS_PADDED)
        score = product(a, tl.trans(as_numbers(tile, tl.float32)), score, PRECISION)
    if HAS_SCALE:
        score *= (tl.load(key_scale + token, mask=inside, other=0.0) * KEY_GAIN)[None, :]
    if HAS_NORM:
        score += tl.load(constant + batch, mask=present, other=0.0)[:, None]
        score *= tl.load(norm + token, mask=inside, other=0.0)[None, :]
    pointers = scores + batch[:, None] * M + token[None, :]
    tl.store(pointers, score, mask=present[:, None] & inside[None, :])


def summed_scores(
    rows: Tensor, key: Tensor, norm: Tensor | None, key_scale: Tensor | None, constant: Tensor | None
) -> Tensor:
    """`reference.summed_scores` in one launch."""
    B, H, W = rows.shape
    M = key.shape[-2]
    result = torch.empty(B, M, dtype=torch.float32, device=rows.device)
    if result.numel() == 0:
        return result
    groups, rows_of_list = (B, 1) if key.dim() == 4 and key.stride(0) != 0 else (1, B)
    storage = storage_of(key.dtype)
    if key.dtype == torch.float8_e4m3fn:
        key = key.view(torch.uint8)
    key = key[(None,) * (4 - key.dim())]
    chunk = chunk_of(W, WIDEST_CHUNK)
    row_tiles, tiles = triton.cdiv(rows_of_list, BLOCK_ROWS), triton.cdiv(M, BLOCK_M)
    on_gpu = rows.device.type == "cuda"
    with torch.cuda.device(rows.device) if on_gpu else contextlib.nullcontext():
        summed_scores_kernel[(row_tiles * tiles * groups,)](
            rows_of=rows,
            key=key,
            norm=norm,
            key_scale=key_scale,
            constant=None if constant is None else constant.contiguous(),
            scores=result,
            **named_strides("rows", rows, "batch", "head"),
            **named_strides("key", key, "batch", "head", "row"),
            M=M,
            heads=H,
            rows=rows_of_list,
            row_tiles=row_tiles,
            tiles=tiles,
            WIDTH=W,
            CHUNK=chunk,
            CHUNKS=triton.cdiv(W, chunk),
            IS_PADDED=W % chunk != 0,
            BLOCK_ROWS=BLOCK_ROWS,
            BLOCK_M=BLOCK_M,
            KEY_GAIN=storage.gain,
            HAS_NORM=norm is not None,
            HAS_SCALE=key_scale is not None,
            PRECISION=FLOAT32_PRECISION,
            num_warps=NUM_WARPS,
            num_stages=NUM_STAGES,
        )
    return result
