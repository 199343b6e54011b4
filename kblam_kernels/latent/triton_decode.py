"""Attention of few queries to many latents (Triton), in three launches: absorb, attend, project.

How it works is in this folder's README. Takes what `dispatch.Triton` has no reason against, with shapes and meanings as
`LatentCall`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

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
    multiprocessors,
    prompt_tile,
    states_of,
    target_arch,
)
from kblam_kernels.common.native import contiguous_or_none
from kblam_kernels.common.splits import GROUP, GROUPS, LATENT_PROMPT_SPLIT, PROMPT_ROWS, chunk_of, head_chunk_of
from kblam_kernels.common.tiles import precision_of
from kblam_kernels.latent.call import LatentCall
from kblam_kernels.latent.tiles import (
    ABSORB,
    PROJECT,
    PROJECT_COLUMNS,
    LatentTile,
    as_bits,
    blocks,
    folded,
    is_padded,
    latent_split,
    prompt_chunk,
    query_bytes,
    storage_of,
    tile_of,
    value_parts,
)
from kblam_kernels.latent.triton_ends import latent_absorb_kernel, latent_project_kernel
from kblam_kernels.latent.triton_kernels import latent_decode_kernel


class Latents(NamedTuple):
    """The knowledge block, and its absorbed queries with their constant: (B, Hq, N, P) and (B, Hq, N)."""

    query: Tensor
    constant: Tensor
    key: Heads
    value: Heads
    norm: Tensor
    key_scale: Tensor | None
    value_scale: Tensor | None


class KernelTile(NamedTuple):
    """A tile, compiled in; the meaning of its parts is that of `LatentTile` and `Storage`.

    FOLDED splits make one partial result.
    """

    BLOCK_ROWS: int
    BLOCK_M: int
    FOLDED: int
    IS_RESIDENT: bool
    TOKENS: int
    VALUE_PARTS: int
    KEY_GAIN: int
    VALUE_HEADROOM: int


class MergeTile(NamedTuple):
    """How the last launch merges, compiled in: ROWS rows of a head, up to GROUPS groups of up to SPLITS splits."""

    ROWS: int
    GROUPS: int
    SPLITS: int
    VALUE_UNIT: float


def forward(call: LatentCall, tile: LatentTile | None = None) -> tuple[Tensor, Tensor]:
    """Output and lse, in three launches per block of queries.

    `tile` is for tests and tuning; None takes the one from the table.
    """
    B, Hq, _, N, T, _ = call.sizes
    D, P = call.width, call.latent_key.shape[1]
    tile = tile or tile_of(call)
    output, lse = call.empty()
    if call.query.numel() == 0:
        return output, lse
    call = call.but(
        norm=call.norm.contiguous(),
        key_scale=contiguous_or_none(call.key_scale),
        value_scale=contiguous_or_none(call.value_scale),
        key_weight=_with_whole_rows(call.key_weight),
        value_weight=_with_whole_rows(call.value_weight),
        key_bias=call.key_bias.contiguous(),
        value_bias=call.value_bias.contiguous(),
    )
    split_size = latent_split(call.span, tile, multiprocessors(call.query))
    for b, n in blocks(B, N, query_bytes(Hq, P, D, call.span, T, split_size * tile.most_folded)):
        # Columns past the last query of the block are hidden from all of it.
        seen = slice(T - N + n.stop)
        block = call.but(
            query=call.query[b, :, n],
            knowledge_query=call.knowledge_query[b, :, n],
            key=call.key[b, :, seen],
            value=call.value[b, :, seen],
            bias=_rows(call.bias, b),
            prompt_mask=_rows(call.prompt_mask, b, seen),
            knowledge_range=_rows(call.knowledge_range, b),
        )
        _launch(block, tile, split_size, output[b, :, n], lse[b, :, n])
    return output, lse


def _with_whole_rows(weight: Tensor) -> Tensor:
    return weight if weight.stride(-1) == 1 else weight.contiguous()


def _rows(tensor: Tensor | None, b: slice, columns: slice = slice(None)) -> Tensor | None:
    """The block's part of a matrix that has one row for each batch row, or one row for all."""
    if tensor is None:
        return None
    return (tensor if tensor.shape[0] == 1 else tensor[b])[:, columns]


def _launch(call: LatentCall, tile: LatentTile, split_size: int, output: Tensor, lse: Tensor) -> None:
    """One block of queries: all launches. `output` and `lse` are its part of the results."""
    query, r, storage = call.query, call.knowledge_query, storage_of(call.latent_key.dtype)
    (B, Hq, N, D), P = query.shape, call.latent_key.shape[1]
    chunk, padded = chunk_of(P, tile.widest_chunk), is_padded(P, tile)
    parts, value_chunks = value_parts(P, tile)
    unfolded = B * N * query_bytes(Hq, P, D, call.span, call.sizes.T, split_size)
    fold = folded(B * Hq * N, call.span, unfolded, tile, multiprocessors(query))
    cut = cut_of(
        call,
        tile,
        rows=Hq * N,
        programs=parts,
        split_size=split_size,
        prompt_rows=PROMPT_ROWS,
        prompt_split=LATENT_PROMPT_SPLIT,
        folded=fold,
    )
    absorbed, constant = memory.empty(r, B, Hq, N, P), memory.empty(r, B, Hq, N, dtype=torch.float32)
    partial_latent = memory.empty(query, cut.knowledge_splits, cut.row_count, P, dtype=torch.float32)
    partial_prompt = memory.empty(query, cut.splits - cut.knowledge_splits, cut.row_count, D, dtype=torch.float32)
    states = states_of(cut, query)
    chained = target_arch(query) == "sm_90"
    common: dict[str, Any] = {"states": states, "sizes": call.sizes, "cut": cut, "CHAINED": chained}
    arguments = attention(call)
    columns = chunks(P, chunk_of(P, ABSORB.block_m))
    launch(
        latent_absorb_kernel,
        (cut.prompt_programs + triton.cdiv(B * N, ABSORB.block_rows) * Hq * columns.COUNT,),
        ABSORB,
        query,
        **{name: arguments[name] for name in ("prompt", "strides", "window", "scale")},
        **common,
        query=heads(r),
        weight=heads(call.key_weight),
        bias=call.key_bias,
        absorbed=absorbed,
        constant=constant,
        partial_prompt=partial_prompt,
        LATENT=columns,
        HEAD=chunks(D, head_chunk_of(D, r.element_size())),
        PROMPT=prompt_tile(call, PROMPT_ROWS, LATENT_PROMPT_SPLIT),
        PROMPT_HEAD=chunks(D, prompt_chunk(D, query.element_size())),
        BLOCK_ROWS=ABSORB.block_rows,
    )
    launch(
        latent_decode_kernel,
        (cut.knowledge_programs,),
        tile,
        query,
        follows=chained,
        **{name: arguments[name] for name in ("bias", "knowledge_range", "strides", "scale")},
        **common,
        latents=Latents(
            absorbed,
            constant,
            heads(as_bits(call.latent_key)),
            heads(as_bits(call.latent_value)),
            call.norm,
            call.key_scale,
            call.value_scale,
        ),
        partial=partial_latent,
        LATENT=Chunks(P, chunk, triton.cdiv(P, chunk), padded),
        VALUES=Chunks(P, chunk, value_chunks, padded),
        TILE=KernelTile(
            tile.block_rows,
            tile.block_m,
            fold,
            tile.resident,
            0 if tile.tokens_first else 1,
            parts,
            storage.gain,
            storage.headroom,
        ),
    )
    project = PROJECT[precision_of(query.dtype)]
    columns = chunks(D, min(PROJECT_COLUMNS, head_chunk_of(D, query.element_size())))
    launch(
        latent_project_kernel,
        (triton.cdiv(B * N, project.block_rows), Hq, columns.COUNT),
        project,
        query,
        follows=chained and cut.knowledge_programs > 0,
        **common,
        partial_latent=partial_latent,
        partial_prompt=partial_prompt,
        weight=heads(call.value_weight),
        bias=call.value_bias,
        output=heads(output),
        lse=heads(lse[..., None]),
        LATENT=chunks(P, chunk_of(P, project.block_m)),
        HEAD=columns,
        MERGE=MergeTile(project.block_rows, GROUPS, GROUP // fold, storage.gain / storage.headroom),
    )
