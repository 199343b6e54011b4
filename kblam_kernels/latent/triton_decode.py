"""Attention of few queries to many latents (Triton): splits of the latents and of the prompt in one launch, one merge.

How it works is in this folder's README. Takes what `dispatch.Triton` has no reason against, with shapes and meanings as
`LatentCall`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from kblam_kernels.common import memory
from kblam_kernels.common.launch import (
    Chunks,
    Heads,
    attention,
    chunks,
    cut_of,
    heads,
    launch,
    prompt_tile,
    states_of,
    target_arch,
)
from kblam_kernels.common.native import contiguous_or_none
from kblam_kernels.common.splits import MERGE, PROMPT_ROWS, chunk_of, split_tokens
from kblam_kernels.common.tiles import precision_of
from kblam_kernels.latent.absorption import Absorbed, Mixed, empty_mixed, placed
from kblam_kernels.latent.call import LatentCall
from kblam_kernels.latent.tiles import (
    LatentTile,
    as_bits,
    blocks,
    is_padded,
    latent_tile,
    prompt_chunk,
    query_bytes,
    storage_of,
    value_parts,
)
from kblam_kernels.latent.triton_kernels import latent_decode_kernel, latent_merge_kernel


class Latents(NamedTuple):
    """The knowledge block, and its absorbed queries with their constant."""

    query: Heads
    constant: Tensor
    key: Heads
    value: Heads
    norm: Tensor
    key_scale: Tensor | None
    value_scale: Tensor | None


class KernelTile(NamedTuple):
    """A tile, compiled in; the meaning of its parts is that of `LatentTile` and `Storage`."""

    BLOCK_ROWS: int
    BLOCK_M: int
    IS_RESIDENT: bool
    VALUE_PARTS: int
    KEY_GAIN: int
    VALUE_HEADROOM: int


def forward(call: LatentCall) -> tuple[Tensor, Tensor]:
    """Output and lse."""
    return placed(call, mix)


def mix(call: LatentCall, absorbed: Absorbed, tile: LatentTile | None = None) -> Mixed:
    """Two launches per block of queries. `tile` is for tests and tuning; None takes the one from the table."""
    B, Hq, _, N, T, _ = call.sizes
    D, P = call.width, call.latent_key.shape[1]
    tile = tile or latent_tile(P, precision_of(call.query.dtype), target_arch(call.query))
    result = empty_mixed(call)
    if call.query.numel() == 0:
        return result
    call = call.but(
        norm=call.norm.contiguous(),
        key_scale=contiguous_or_none(call.key_scale),
        value_scale=contiguous_or_none(call.value_scale),
    )
    for b, n in blocks(B, N, query_bytes(Hq, P, D, call.span, T, tile)):
        # Columns past the last query of the block are hidden from all of it.
        seen = slice(T - N + n.stop)
        block = call.but(
            query=call.query[b, :, n],
            key=call.key[b, :, seen],
            value=call.value[b, :, seen],
            bias=_rows(call.bias, b),
            prompt_mask=_rows(call.prompt_mask, b, seen),
            knowledge_range=_rows(call.knowledge_range, b),
        )
        asked = Absorbed(absorbed.query[b, :, n], absorbed.constant[b, :, n].contiguous())
        _launch(block, asked, tile, Mixed(*(part[b, :, n] for part in result)), N)
    return result


def _rows(tensor: Tensor | None, b: slice, columns: slice = slice(None)) -> Tensor | None:
    """The block's part of a matrix that has one row for each batch row, or one row for all."""
    if tensor is None:
        return None
    return (tensor if tensor.shape[0] == 1 else tensor[b])[:, columns]


def _launch(call: LatentCall, absorbed: Absorbed, tile: LatentTile, result: Mixed, result_queries: int) -> None:
    """One block of queries: both launches. `result` is its part of an output that has `result_queries` a head."""
    query, storage = call.query, storage_of(call.latent_key.dtype)
    (_, Hq, N, D), P = query.shape, call.latent_key.shape[1]
    chunk, padded = chunk_of(P, tile.widest_chunk), is_padded(P, tile)
    parts, value_chunks = value_parts(P, tile)
    split_size = split_tokens(call.span, tile.block_m)
    cut, programs = cut_of(call, tile, rows=Hq * N, programs=parts, split_size=split_size, prompt_rows=PROMPT_ROWS)
    partial_latent = memory.empty(query, cut.knowledge_splits, cut.row_count, P, dtype=torch.float32)
    partial_prompt = memory.empty(query, cut.splits - cut.knowledge_splits, cut.row_count, D, dtype=torch.float32)
    states = states_of(cut, query)
    launch(
        latent_decode_kernel,
        (programs,),
        tile,
        query,
        **attention(call),
        latents=Latents(
            heads(absorbed.query),
            absorbed.constant,
            heads(as_bits(call.latent_key)),
            heads(as_bits(call.latent_value)),
            call.norm,
            call.key_scale,
            call.value_scale,
        ),
        partial_latent=partial_latent,
        partial_prompt=partial_prompt,
        states=states,
        cut=cut,
        LATENT=Chunks(P, chunk, triton.cdiv(P, chunk), padded),
        VALUES=Chunks(P, chunk, value_chunks, padded),
        TILE=KernelTile(tile.block_rows, tile.block_m, tile.resident, parts, storage.gain, storage.headroom),
        PROMPT=prompt_tile(call, PROMPT_ROWS),
        HEAD=chunks(D, prompt_chunk(D, query.element_size())),
    )
    launch(
        latent_merge_kernel,
        (cut.row_count, triton.cdiv(P, MERGE.block_m) + triton.cdiv(D, MERGE.block_m)),
        MERGE,
        query,
        partial_latent=partial_latent,
        partial_prompt=partial_prompt,
        states=states,
        prompt=result.prompt,
        latent=heads(result.latent),
        share=result.share,
        lse=result.lse,
        sizes=call.sizes,
        cut=cut,
        result_queries=result_queries,
        P=P,
        HEAD_DIM=D,
        VALUE_UNIT=storage.gain / storage.headroom,
        BLOCK_SPLITS=MERGE.block_rows,
        BLOCK_COLUMNS=MERGE.block_m,
    )
