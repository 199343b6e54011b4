"""Attention to a prompt in a paged cache, on the CPU: for engines whose own CPU kernel returns no lse.

A request's keys and values are copied out of its blocks, then attention to dense knowledge serves, without knowledge.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from kblam_kernels.attention.packed import check_packed, starts_of
from kblam_kernels.common.checks import check_alike
from kblam_kernels.common.dispatch import AUTO
from kblam_kernels.common.softmax import accumulation_dtype
from kblam_kernels.dense.call import DenseCall
from kblam_kernels.dense.op import dense_attention
from kblam_kernels.errors import expect, number, refuse, tensors, whole


def paged_prompt_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_table: Tensor,
    seq_lens: Tensor,
    query_start_loc: Tensor,
    *,
    scale: float | None = None,
    window: int | None = None,
    backend: str = AUTO,
) -> tuple[Tensor, Tensor]:
    """Causal attention of packed rows to prompts in a paged cache, with the lse; on the CPU only.

    On CUDA an engine's own kernels return the lse (FlashAttention, FlashInfer). Memory grows with the longest prompt of
    a request, not with the sum.

    Args:
        query: (total_tokens, Hq, D), after rotary embedding; float32, float16, bfloat16 (float64: reference backend). A
            contiguous last dimension.
        key_cache, value_cache: (num_blocks, block_size, Hkv, D) of the query's dtype, Hq a multiple of Hkv; any
            strides, so other layouts are views of this one. The keys of the new tokens are already in it.
        block_table: int32 (num_requests, max_blocks), the blocks of each request in order; entries past its length are
            not read.
        seq_lens: int32 (num_requests,), tokens of each request in the cache, the new ones included.
        query_start_loc: int32 (num_requests + 1,), as `partial_knowledge_attention` takes it: request i has the last
            tokens of its sequence as queries. Tokens after the last entry are padding.
        scale: factor of the scores; None means D ** -0.5.
        window: sliding-window size in tokens, counting the query's own; None is unlimited.
        backend: "auto", "cpu" or "reference"; KBLAM_BACKEND decides when this is "auto".

    Returns:
        Output (total_tokens, Hq, D) in the dtype of `query`, and the natural-log lse (Hq, total_tokens), float32
        (float64 for float64 input). Padding has output 0 and lse -inf. The query and both caches get gradients.

    Raises:
        UnsupportedInputError: a shape, dtype, device or value that does not fit (a block that the cache lacks, fewer
            tokens in the cache than are new); the message names it.
        BackendUnavailableError: the backend asked for by name cannot serve this call; the message has the reasons.

    Example:
        >>> import torch
        >>> from kblam_kernels import paged_prompt_attention
        >>> cache, query = torch.randn(2, 10, 16, 2, 64), torch.randn(4, 8, 64)
        >>> table, lengths = torch.tensor([[3, 7], [5, 0]]).int(), torch.tensor([20, 3]).int()
        >>> output, lse = paged_prompt_attention(query, *cache, table, lengths, torch.tensor([0, 1, 4]).int())
        >>> output.shape, lse.shape
        (torch.Size([4, 8, 64]), torch.Size([8, 4]))
    """
    check_packed(query, query_start_loc, "query")
    if query.device.type != "cpu":
        refuse(f"query is on {query.device}; paged_prompt_attention is for the CPU, elsewhere take the engine's own")
    _check_cache(query, key_cache, value_cache)
    R = len(query_start_loc) - 1
    expect("seq_lens", seq_lens, "num_requests", (R,), query.device, torch.int32)
    tensors(block_table=block_table)
    blocks = block_table.shape[-1] if block_table.dim() else 0
    expect("block_table", block_table, "num_requests, max_blocks", (R, blocks), query.device, torch.int32)
    output = torch.zeros_like(query, memory_format=torch.contiguous_format)
    lse = torch.full(query.shape[1::-1], float("-inf"), dtype=accumulation_dtype(query), device=query.device)
    rows = query.transpose(0, 1)[None]
    scale = query.shape[2] ** -0.5 if scale is None else number("scale", scale)
    window = None if window is None else whole("window", window, least=None)
    nothing = rows[:, :, :0]
    call = DenseCall(rows, nothing, nothing, rows, None, None, None, scale, window, None, nothing[0], nothing[0])
    call.check()
    name = dense_attention.choose(call, backend)
    # A compiler breaks its graph at the lengths below, and reads these too.
    starts = starts_of(query_start_loc, len(query)) or query_start_loc.tolist()
    for i, (length, (first, end)) in enumerate(zip(seq_lens.tolist(), itertools.pairwise(starts), strict=True)):
        if first == end:
            continue
        if length < end - first:
            refuse(f"request {i} has {end - first} new tokens and only {length} in the cache (seq_lens)")
        new = rows[:, :, first:end]
        key, value = (_gathered(cache, block_table[i], length, i) for cache in (key_cache, value_cache))
        part, part_lse = dense_attention(call.but(query=new, knowledge_query=new, key=key, value=value), name)
        output[first:end] = part[0].transpose(0, 1)
        lse[:, first:end] = part_lse[0]
    return output, lse


def _check_cache(query: Tensor, key_cache: Tensor, value_cache: Tensor) -> None:
    tensors(key_cache=key_cache, value_cache=value_cache)
    check_alike({"key_cache": key_cache, "value_cache": value_cache}, query)
    (_, Hq, D), cache = query.shape, key_cache.shape
    if len(cache) != 4 or value_cache.shape != cache or cache[3] != D or not cache[1] or not cache[2] or Hq % cache[2]:
        refuse(
            f"key_cache and value_cache must both be (num_blocks, block_size, Hkv, D={D}), block_size at least 1, "
            f"Hq={Hq} a multiple of Hkv; got {tuple(cache)} and {tuple(value_cache.shape)}"
        )


def _gathered(cache: Tensor, blocks: Tensor, length: int, request: int) -> Tensor:
    """(1, Hkv, length, D) of one request."""
    blocks = blocks[: -(-length // cache.shape[1])]
    held = len(blocks) * cache.shape[1]
    if held < length or bool(((blocks < 0) | (blocks >= len(cache))).any()):
        refuse(
            f"request {request} has {length} tokens in blocks {blocks.tolist()} of {cache.shape[1]}; the cache has "
            f"{len(cache)} blocks"
        )
    return cache.index_select(0, blocks).flatten(0, 1)[:length].transpose(0, 1)[None]
