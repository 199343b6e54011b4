"""Attention of few queries to many latents (Triton): splits of the latents and of the prompt in one launch, one merge.

All heads read the same latents, so heads, queries and, when the batch shares one list, batch rows fold into the rows
of one matrix product: each latent is read once for all of them. What the launcher accepts:

- CUDA tensors, or CPU tensors when TRITON_INTERPRET=1 was set before triton was imported;
- float32, float16 or bfloat16, one dtype for all but norm, scales, constant, bias (float32), mask (bool), range (int32,
  int64) and the latents: these may also be float16, bfloat16, int8 or float8_e4m3fn under any of them;
- any P and any head_dim up to 256; any strides with a contiguous last dimension;
- shapes and meanings as `reference.forward`.

Many queries go in blocks that share one bounded scratch memory (`scratch.py`); a decode step is one block.

No host synchronisation and no shape that depends on data: a CUDA graph can capture a call. The knowledge range is read
on the device, so a list that grows within its allocation needs no new capture.
"""

from __future__ import annotations

import contextlib

import torch
import triton
from torch import Tensor

from kblam_kernels import tiles
from kblam_kernels.latent import scratch
from kblam_kernels.latent.op import empty_output
from kblam_kernels.latent.reference import LatentOutput
from kblam_kernels.latent.tiles import (
    LatentTile,
    Storage,
    is_padded,
    latent_tile,
    prompt_chunk,
    storage_of,
    value_parts,
)
from kblam_kernels.latent.triton_kernels import latent_decode_kernel, latent_merge_kernel
from kblam_kernels.rectangular.chunks import (
    PROMPT_ROWS,
    PROMPT_SPLIT,
    chunk_of,
    named_strides,
    prompt_block,
)
from kblam_kernels.rectangular.triton_forward import FLOAT32_PRECISION
from kblam_kernels.rectangular.triton_parts import LOG2E

MERGE_SPLITS = 64
MERGE_COLUMNS = 64


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    latent_key: Tensor,
    latent_value: Tensor,
    norm: Tensor,
    key_scale: Tensor | None,
    value_scale: Tensor | None,
    absorbed_query: Tensor,
    constant: Tensor,
    bias: Tensor | None,
    prompt_mask: Tensor | None,
    knowledge_range: Tensor | None,
    scale: float,
    window: int | None,
    skip_threshold: float = 0.0,
    tile: LatentTile | None = None,
) -> LatentOutput:
    """`reference.forward`, two launches a block of queries. `tile` is for tests and tuning; None takes the table's."""
    B, Hq, N, D = query.shape
    T, (M, P) = key.shape[2], latent_key.shape
    device = query.device
    on_gpu = device.type == "cuda"
    if tile is None:
        arch = tiles.arch_of(torch.cuda.get_device_capability(device)) if on_gpu else "interpreter"
        tile = latent_tile(P, query.element_size(), arch)
    storage = storage_of(latent_key.dtype)
    if latent_key.dtype == torch.float8_e4m3fn:
        latent_key, latent_value = latent_key.view(torch.uint8), latent_value.view(torch.uint8)
    result = empty_output(query, P, skip_threshold)
    if query.numel() == 0:
        return result
    norm = norm.contiguous()
    if key_scale is not None and value_scale is not None:
        key_scale, value_scale = key_scale.contiguous(), value_scale.contiguous()
    with torch.cuda.device(device) if on_gpu else contextlib.nullcontext():
        for b, n in scratch.blocks(B, N, scratch.query_bytes(Hq, P, D, M, T, tile)):
            # Columns past the last query of the block are hidden from all of it.
            seen = slice(T - N + n.stop)
            prompt, latent, share, lse = (part[b, :, n] for part in result[:4])
            _launch(
                query[b, :, n],
                key[b, :, seen],
                value[b, :, seen],
                latent_key,
                latent_value,
                norm,
                key_scale,
                value_scale,
                absorbed_query[b, :, n],
                constant[b, :, n].contiguous(),
                _rows(bias, b),
                _rows(prompt_mask, b, seen),
                _rows(knowledge_range, b),
                scale,
                window,
                skip_threshold,
                tile,
                storage,
                LatentOutput(prompt, latent, share, lse, result.tiles),
                N,
            )
    return result


def _rows(tensor: Tensor | None, b: slice, columns: slice = slice(None)) -> Tensor | None:
    """The block's part of a matrix that has one row for each of the batch, or one for all."""
    if tensor is None:
        return None
    return (tensor if tensor.shape[0] == 1 else tensor[b])[:, columns]


def _launch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    latent_key: Tensor,
    latent_value: Tensor,
    norm: Tensor,
    key_scale: Tensor | None,
    value_scale: Tensor | None,
    absorbed_query: Tensor,
    constant: Tensor,
    bias: Tensor | None,
    prompt_mask: Tensor | None,
    knowledge_range: Tensor | None,
    scale: float,
    window: int | None,
    skip_threshold: float,
    tile: LatentTile,
    storage: Storage,
    result: LatentOutput,
    result_queries: int,
) -> None:
    """One block of queries: both launches. `result` is its part of an output that has `result_queries` a head."""
    B, Hq, N, D = query.shape
    Hkv, T = key.shape[1], key.shape[2]
    M, P = latent_key.shape
    # Rows of the batch fold into one tile when they share the list and its bias; known from shapes, without a look
    # at the device.
    folds = all(t is None or t.shape[0] == 1 for t in (bias, knowledge_range))
    groups, rows = (1, B * Hq * N) if folds else (B, Hq * N)
    row_count = B * Hq * N
    row_tiles = triton.cdiv(rows, tile.block_rows)
    chunk, dim_chunk = chunk_of(P, tile.widest_chunk), prompt_chunk(D, query.element_size())
    parts, value_chunks = value_parts(P, tile)
    split_size, knowledge_splits, prompt_splits = scratch.splits_of(M, T, tile)
    splits = knowledge_splits + prompt_splits
    knowledge_programs = knowledge_splits * groups * row_tiles * parts
    group_size = Hq // Hkv
    prompt_row_tiles = triton.cdiv(group_size * N, PROMPT_ROWS)

    def unwritten(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=query.device)

    partial_latent, partial_prompt = unwritten(knowledge_splits, row_count, P), unwritten(prompt_splits, row_count, D)
    maximum, total = unwritten(row_count, splits), unwritten(row_count, splits)
    columns = triton.cdiv(P, MERGE_COLUMNS) + triton.cdiv(D, MERGE_COLUMNS)
    latent_decode_kernel[(knowledge_programs + prompt_splits * B * Hkv * prompt_row_tiles,)](
        query=query,
        key=key,
        value=value,
        latent_key=latent_key,
        latent_value=latent_value,
        norm=norm,
        key_scale=key_scale,
        value_scale=value_scale,
        absorbed_query=absorbed_query,
        constant=constant,
        bias=bias,
        prompt_mask=prompt_mask,
        knowledge_range=knowledge_range,
        partial_latent=partial_latent,
        partial_prompt=partial_prompt,
        maximum=maximum,
        total=total,
        tiles=result.tiles if skip_threshold else None,
        **named_strides("query", query, "batch", "head", "row"),
        **named_strides("key", key, "batch", "head", "row"),
        **named_strides("value", value, "batch", "head", "row"),
        **named_strides("latent_key", latent_key, "row"),
        **named_strides("latent_value", latent_value, "row"),
        **named_strides("absorbed", absorbed_query, "batch", "head", "row"),
        **named_strides("bias", bias, "batch", "token"),
        **named_strides("mask", prompt_mask, "batch", "column"),
        **named_strides("range", knowledge_range, "batch", "end"),
        B=B,
        Hq=Hq,
        Hkv=Hkv,
        N=N,
        T=T,
        M=M,
        window=window or 0,
        rows=rows,
        row_count=row_count,
        row_tiles=row_tiles,
        groups=groups,
        knowledge_programs=knowledge_programs,
        knowledge_splits=knowledge_splits,
        splits=splits,
        split_size=split_size,
        prompt_row_tiles=prompt_row_tiles,
        scale=scale * LOG2E.value,
        skip_threshold=skip_threshold,
        P=P,
        HEAD_DIM=D,
        GROUP=group_size,
        BLOCK_ROWS=tile.block_rows,
        BLOCK_M=tile.block_m,
        CHUNK=chunk,
        CHUNKS=triton.cdiv(P, chunk),
        VALUE_CHUNKS=value_chunks,
        VALUE_PARTS=parts,
        IS_PADDED=is_padded(P, tile),
        IS_RESIDENT=tile.resident,
        KEY_GAIN=storage.gain,
        VALUE_HEADROOM=storage.headroom,
        HAS_SCALE=key_scale is not None,
        SKIPS=skip_threshold > 0,
        PROMPT_ROWS=PROMPT_ROWS,
        PROMPT_BLOCK=prompt_block(D, query.element_size()),
        PROMPT_SPLIT=PROMPT_SPLIT,
        DIM_CHUNK=dim_chunk,
        DIM_CHUNKS=triton.cdiv(D, dim_chunk),
        IS_DIM_PADDED=D % dim_chunk != 0,
        HAS_BIAS=bias is not None,
        HAS_MASK=prompt_mask is not None,
        HAS_WINDOW=window is not None,
        HAS_RANGE=knowledge_range is not None,
        PRECISION=FLOAT32_PRECISION,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    latent_merge_kernel[(row_count, columns)](
        partial_latent=partial_latent,
        partial_prompt=partial_prompt,
        maximum=maximum,
        total=total,
        prompt=result.prompt,
        latent=result.latent,
        share=result.share,
        lse=result.lse,
        **named_strides("latent", result.latent, "batch", "head", "row"),
        Hq=Hq,
        N=N,
        result_queries=result_queries,
        row_count=row_count,
        knowledge_splits=knowledge_splits,
        splits=splits,
        P=P,
        HEAD_DIM=D,
        VALUE_UNIT=storage.gain / storage.headroom,
        BLOCK_SPLITS=MERGE_SPLITS,
        BLOCK_COLUMNS=MERGE_COLUMNS,
        num_warps=4,
    )
