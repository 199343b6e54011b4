"""Attention to a prompt in a paged cache, on the CPU: for engines whose own CPU kernel returns no lse.

A request's keys and values are copied out of its blocks, then attention to dense knowledge serves, without knowledge.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from kblam_kernels.attention.packed import check_device, check_packed, starts_of
from kblam_kernels.common import dispatch
from kblam_kernels.common.call import Call
from kblam_kernels.common.checks import check_alike
from kblam_kernels.common.dispatch import AUTO
from kblam_kernels.common.op import Op
from kblam_kernels.common.softmax import accumulation_dtype
from kblam_kernels.dense.call import DenseCall
from kblam_kernels.dense.op import dense_attention
from kblam_kernels.errors import refuse


@dataclass(frozen=True)
class PagedCall(Call):
    """Attention of packed rows to paged prompts; fields as the arguments of `paged_prompt_attention`."""

    LEADING = "query"
    KNOWLEDGE = "key_cache"
    STRIDED = ("query",)
    RESULTS = ("output", "lse")

    query: Tensor
    key_cache: Tensor
    value_cache: Tensor
    block_table: Tensor
    seq_lens: Tensor
    query_start_loc: Tensor
    scale: float
    window: int | None

    def empty(self) -> tuple[Tensor, Tensor]:
        T, Hq, _ = self.query.shape
        return torch.empty_like(self.query, memory_format=torch.contiguous_format), self.query.new_empty(
            Hq, T, dtype=accumulation_dtype(self.query)
        )

    def check(self) -> None:
        """Refuses tensors that do not fit together.

        Raises:
            UnsupportedInputError: the message names the value.
        """
        query, R = self.query, len(self.query_start_loc) - 1
        check_alike({"key_cache": self.key_cache, "value_cache": self.value_cache}, query)
        _, Hq, D = query.shape
        cache = self.key_cache.shape
        if len(cache) != 4 or self.value_cache.shape != cache or cache[3] != D or not cache[2] or Hq % cache[2]:
            refuse(
                f"key_cache and value_cache must both be (num_blocks, block_size, Hkv, D={D}), Hq={Hq} a multiple of "
                f"Hkv; got {tuple(cache)} and {tuple(self.value_cache.shape)}"
            )
        for name, tensor, rank in (("block_table", self.block_table, 2), ("seq_lens", self.seq_lens, 1)):
            if tensor.dim() != rank or len(tensor) != R or tensor.dtype != torch.int32:
                refuse(f"{name} must be int32, num_requests={R} long; got {tensor.dtype} {tuple(tensor.shape)}")
            check_device(tensor, name, query)
        if self.window is not None and self.window < 1:
            refuse(f"window must be at least 1 (the query's own token) or None; got {self.window}")


class _Gathered(dispatch.Backend[PagedCall]):
    """A backend of dense attention, on what was copied out of the blocks."""

    def forward(self, call: PagedCall) -> tuple[Tensor, ...]:
        return _forward(call, self.name)

    def is_one_op(self, call: PagedCall) -> bool:
        return False


class PagedCpu(_Gathered, dispatch.Cpu[PagedCall]):
    """The C++ kernels."""


class PagedReference(_Gathered, dispatch.Reference[PagedCall]):
    """Plain PyTorch."""


paged_attention = Op(
    "paged_prompt_attention",
    PagedCall,
    (PagedCpu("kblam_kernels.dense.cpu"), PagedReference("kblam_kernels.dense.reference")),
)


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
        (float64 for float64 input). Padding has output 0 and lse -inf. There is no gradient.

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
    call = PagedCall(
        query=query,
        key_cache=key_cache,
        value_cache=value_cache,
        block_table=block_table,
        seq_lens=seq_lens,
        query_start_loc=query_start_loc,
        scale=query.shape[2] ** -0.5 if scale is None else float(scale),
        window=window,
    )
    call.check()
    output, lse = paged_attention(call, paged_attention.choose(call, backend))
    return output, lse


def _forward(call: PagedCall, name: str) -> tuple[Tensor, Tensor]:
    """One request after the other, by a backend of dense attention."""
    output, lse = call.empty()
    output.zero_()
    lse.fill_(float("-inf"))
    starts = starts_of(call.query_start_loc, len(call.query)) or []
    for i, (length, (first, end)) in enumerate(zip(call.seq_lens.tolist(), itertools.pairwise(starts), strict=True)):
        if first == end:
            continue
        if length < end - first:
            refuse(f"request {i} has {end - first} new tokens and only {length} in the cache (seq_lens)")
        query = call.query[first:end].transpose(0, 1)[None]
        key, value = (_gathered(cache, call.block_table[i], length, i) for cache in (call.key_cache, call.value_cache))
        nothing = query.new_empty(query.shape[1], 0, query.shape[3])
        dense = DenseCall(query, key, value, query, None, None, None, call.scale, call.window, None, nothing, nothing)
        of_request, of_request_lse = dense_attention(dense, name)
        output[first:end] = of_request[0].transpose(0, 1)
        lse[:, first:end] = of_request_lse[0]
    return output, lse


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
