"""Attention of few queries to many columns (Triton): splits of knowledge and of the prompt in one launch, then a merge.

The queries of one head, of all batch rows when these share one list, fold into the rows of one matrix product, so
that a key is read once for the batch; the query heads of one prompt head fold likewise. Accepts what `triton_forward`
accepts. Splits have a fixed number of columns (`chunks.py`): a row's result does not depend on the batch around it.

No host synchronisation and no shape that depends on data: a CUDA graph can capture a call, and a list that grows
within its room, its range read on the device, needs no new capture.
"""

from __future__ import annotations

import contextlib

import torch
import triton
from torch import Tensor

from kblam_kernels.rectangular.chunks import (
    MAX_DENSE_SPLITS,
    MIN_DENSE_SPLIT,
    PROMPT_SPLIT,
    head_chunk_of,
    named_strides,
    prompt_block,
    split_tokens,
)
from kblam_kernels.rectangular.decode_tiles import DecodeTile, decode_tile
from kblam_kernels.rectangular.op import empty_output
from kblam_kernels.rectangular.triton_decode_kernels import rectangular_decode_kernel, rectangular_merge_kernel
from kblam_kernels.rectangular.triton_forward import FLOAT32_PRECISION
from kblam_kernels.rectangular.triton_parts import LOG2E

MERGE_SPLITS = 64


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
    tile: DecodeTile | None = None,
) -> tuple[Tensor, Tensor]:
    """`reference.forward` in two launches. `tile` is for tests and tuning; None takes that of the table."""
    B, Hq, N, D = query.shape
    Hkv, T, M = key.shape[1], key.shape[2], knowledge_key.shape[-2]
    tile = tile or decode_tile(D, query.element_size())
    output, lse = empty_output(query)
    if query.numel() == 0:
        return output, lse
    if knowledge_key.dim() == 3:
        knowledge_key, knowledge_value = knowledge_key[None], knowledge_value[None]
    # The batch folds when its rows share the list, its range and its bias; known without a look at the device.
    folds = all(t is None or t.shape[0] == 1 or t.stride(0) == 0 for t in (knowledge_key, bias, knowledge_range))
    groups, rows = (1, B * N) if folds else (B, N)
    row_count = B * Hq * N
    row_tiles = triton.cdiv(rows, tile.block_rows)
    split_size = split_tokens(M, tile.block_m, MAX_DENSE_SPLITS, MIN_DENSE_SPLIT)
    knowledge_splits, prompt_splits = triton.cdiv(M, split_size), triton.cdiv(T, PROMPT_SPLIT)
    splits = knowledge_splits + prompt_splits
    knowledge_programs = knowledge_splits * groups * Hq * row_tiles
    prompt_row_tiles = triton.cdiv(Hq // Hkv * N, tile.block_rows)
    chunk = head_chunk_of(D, query.element_size())

    def scratch(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=query.device)

    partial, maximum, total = scratch(splits, row_count, D), scratch(row_count, splits), scratch(row_count, splits)
    on_gpu = query.device.type == "cuda"
    with torch.cuda.device(query.device) if on_gpu else contextlib.nullcontext():
        rectangular_decode_kernel[(knowledge_programs + prompt_splits * B * Hkv * prompt_row_tiles,)](
            query=query,
            key=key,
            value=value,
            knowledge_key=knowledge_key,
            knowledge_value=knowledge_value,
            knowledge_query=knowledge_query,
            bias=bias,
            prompt_mask=prompt_mask,
            knowledge_range=knowledge_range,
            partial=partial,
            maximum=maximum,
            total=total,
            **named_strides("query", query, "batch", "head", "row"),
            **named_strides("key", key, "batch", "head", "row"),
            **named_strides("value", value, "batch", "head", "row"),
            **named_strides("knowledge_key", knowledge_key, "batch", "head", "row"),
            **named_strides("knowledge_value", knowledge_value, "batch", "head", "row"),
            **named_strides("knowledge_query", knowledge_query, "batch", "head", "row"),
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
            HEAD_DIM=D,
            GROUP=Hq // Hkv,
            BLOCK_ROWS=tile.block_rows,
            BLOCK_M=tile.block_m,
            PROMPT_ROWS=tile.block_rows,
            PROMPT_BLOCK=prompt_block(D, query.element_size()),
            PROMPT_SPLIT=PROMPT_SPLIT,
            CHUNK=chunk,
            CHUNKS=triton.cdiv(D, chunk),
            IS_PADDED=D % chunk != 0,
            HAS_BIAS=bias is not None,
            HAS_MASK=prompt_mask is not None,
            HAS_WINDOW=window is not None,
            HAS_RANGE=knowledge_range is not None,
            PRECISION=FLOAT32_PRECISION,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )
        columns = min(chunk, 64)
        rectangular_merge_kernel[(row_count, triton.cdiv(D, columns))](
            partial=partial,
            maximum=maximum,
            total=total,
            output=output,
            lse=lse,
            **named_strides("output", output, "batch", "head", "row"),
            Hq=Hq,
            N=N,
            row_count=row_count,
            knowledge_splits=knowledge_splits,
            splits=splits,
            HEAD_DIM=D,
            BLOCK_SPLITS=MERGE_SPLITS,
            BLOCK_COLUMNS=columns,
            num_warps=4,
        )
    return output, lse
