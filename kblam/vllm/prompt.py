"""Attention to the prompt with its lse, for each of vLLM's backends that knowledge is served with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kblam.vllm.step import Step
from kblam_kernels import paged_prompt_attention


def cpu_prompt(
    impl: Any, layer: Any, query: Tensor, kv_cache: Tensor, metadata: Any, step: Step
) -> tuple[Tensor, Tensor]:
    """On a CPU, where vLLM's kernel returns no lse: ours, over vLLM's cache."""
    from kblam.vllm.layout import layout_of

    found = layout_of(layer.isa, kv_cache.dtype, kv_cache.shape[2], impl.head_size)
    lengths = metadata.seq_lens[step.places].to(torch.int32)
    used = -(-int(lengths.max()) // kv_cache.shape[2])
    key, value, table = found.views(kv_cache, metadata.block_table[step.places, :used].to(torch.int32))
    return paged_prompt_attention(query, key, value, table, lengths, step.starts, scale=impl.scale)


def flash_prompt(
    impl: Any, layer: Any, query: Tensor, kv_cache: Tensor, metadata: Any, step: Step
) -> tuple[Tensor, Tensor]:
    """On CUDA: vLLM's FlashAttention once more for the rows with knowledge, asked for the lse that it leaves out.

    Written from its source; it has not run.
    """
    from vllm.v1.attention.backends.fa_utils import flash_attn_varlen_func

    key, value = kv_cache.transpose(1, 2).split(impl.head_size, dim=-1)
    output, lse = flash_attn_varlen_func(
        q=query,
        k=key,
        v=value,
        cu_seqlens_q=step.starts,
        max_seqlen_q=metadata.max_query_len,
        seqused_k=metadata.seq_lens[step.places],
        max_seqlen_k=metadata.max_seq_len,
        softmax_scale=impl.scale,
        causal=True,
        block_table=metadata.block_table[step.places],
        return_softmax_lse=True,
        fa_version=impl.vllm_flash_attn_version,
    )
    return output, lse.contiguous()


# By the name that vLLM gives a backend. Each takes vLLM's implementation of the layer, the layer, the queries of the
# step's rows (T, heads, D), the layer's cache, vLLM's metadata and the step; it returns (T, heads, D) and the natural
# lse (heads, T).
PROMPTS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {"CPU_ATTN": cpu_prompt, "FLASH_ATTN": flash_prompt}
