"""Peers that attend twice, to knowledge and to the prompt, and merge by lse: whose attention kernel that is, varies."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

from kblam.bench.operands import Operands, Peer, grouped

# query (B, Hq, N, D), key and value (B, Hkv, T, D), causal, scale -> output as query, natural lse (B, Hq, N). A causal
# mask starts at the first column: N is 1 or T.
Attend = Callable[[Tensor, Tensor, Tensor, bool, float], tuple[Tensor, Tensor]]
Merge = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
LOG_2 = 0.6931471805599453
# A causal call to its split kernel may not have more queries.
XFORMERS_SPLITS_UP_TO = 16


def flash(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """PyTorch's own FlashAttention-2."""
    if query.is_cuda:
        result = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, causal, False, scale=scale)
        return result[0], result[1]
    heads = query.shape[1]
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, grouped(key, heads), grouped(value, heads), 0.0, causal, scale=scale
    )
    return out, lse


def cudnn(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """cuDNN's attention through PyTorch; its lse has a dimension of 1 behind the queries."""
    result = torch.ops.aten._scaled_dot_product_cudnn_attention(
        query, key, value, None, True, 0.0, causal, False, scale=scale
    )
    lse = result[1]
    return result[0], lse.squeeze(-1) if lse.dim() == 4 else lse


def flash_attn(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """The flash-attn package, version 2; tokens stand before heads there."""
    from flash_attn import flash_attn_func

    inputs = (tensor.transpose(1, 2) for tensor in (query, key, value))
    out, lse, _ = flash_attn_func(*inputs, causal=causal, softmax_scale=scale, return_attn_probs=True)
    return out.transpose(1, 2), lse


def flashinfer(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """FlashInfer's calls for one row; their lse has base 2."""
    from flashinfer import single_prefill_with_kv_cache

    if len(query) != 1:
        raise ValueError(f"FlashInfer's calls without page tables take one row; this shape has {len(query)}")
    out, lse = single_prefill_with_kv_cache(
        query[0].transpose(0, 1), key[0], value[0], causal=causal, kv_layout="HND", sm_scale=scale, return_lse=True
    )
    return out.transpose(0, 1)[None], lse.transpose(0, 1)[None] * LOG_2


def xformers(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """xFormers' attention to a part of the columns; tokens stand before heads there, and each key head is a group.

    Few queries take its kernel that splits the columns, which its own choice leaves out where an lse is asked for.
    """
    from xformers.ops import fmha

    B, H, N, D = query.shape
    groups = key.shape[1]

    def sorted_by_group(tensor: Tensor) -> Tensor:  # (B, tokens, groups, query heads of each, D)
        return tensor.transpose(1, 2).unflatten(2, (groups, -1)).expand(-1, -1, -1, H // groups, -1)

    out, lse = fmha.memory_efficient_attention_partial(
        *map(sorted_by_group, (query, key, value)),
        fmha.attn_bias.LowerTriangularMask() if causal else None,
        scale=scale,
        op=fmha.triton_splitk.FwOp if N <= XFORMERS_SPLITS_UP_TO else None,
        output_dtype=query.dtype,
    )
    # Its lse may be longer than the queries.
    return out.reshape(B, N, H, D).transpose(1, 2), lse.reshape(B, H, -1)[..., :N]


def _merge_of_xformers(first: Tensor, first_lse: Tensor, second: Tensor, second_lse: Tensor) -> Tensor:
    from xformers.ops import fmha

    parts = [tensor.transpose(1, 2) for tensor in (first, second)]
    merged, _ = fmha.merge_attentions(parts, [first_lse, second_lse], write_lse=False, output_dtype=first.dtype)
    return merged.transpose(1, 2)


def _merge(first: Tensor, first_lse: Tensor, second: Tensor, second_lse: Tensor) -> Tensor:
    share = torch.sigmoid(first_lse - second_lse)[..., None]
    return (first.float() * share + second.float() * (1 - share)).to(first.dtype)


@functools.cache
def _compiled_merge() -> Callable[..., Tensor]:
    return torch.compile(_merge)


def twice(attend: Attend, own_merge: Merge | None = None) -> Peer:
    """Attention over the knowledge, the batch folded into one sequence; over the prompt; one fused merge.

    Adding the bias to the knowledge's lse is adding it to every score.

    Args:
        attend: whose attention.
        own_merge: of the same package; None merges by PyTorch, on a GPU compiled into one kernel.
    """

    def build(o: Operands) -> Callable[[], Tensor]:
        B, H, N, D = o.query.shape
        if 1 < N < o.key.shape[2]:
            raise ValueError(f"the causal mask starts at the first column; N={N} must be 1 or T={o.key.shape[2]}")
        if not o.knowledge_key.shape[1]:  # PyTorch's kernel for CPUs divides by it
            return lambda: attend(o.query, o.key, o.value, N > 1, o.scale)[0]
        merge = own_merge or (_compiled_merge() if o.query.is_cuda else _merge)

        def call() -> Tensor:
            folded = o.query.transpose(0, 1).reshape(1, H, B * N, D)
            known, known_lse = attend(folded, o.knowledge_key[None], o.knowledge_value[None], False, o.scale)
            # FlashInfer's output is not contiguous here.
            known = known.reshape(H, B, N, D).transpose(0, 1)
            known_lse = known_lse.reshape(H, B, N).transpose(0, 1) + o.bias
            prompt, prompt_lse = attend(o.query, o.key, o.value, N > 1, o.scale)
            return merge(known, known_lse, prompt, prompt_lse)

        return call

    return build


TWO_CALLS: dict[str, Peer] = {
    "two flash calls + merge": twice(flash),
    "two cuDNN calls + merge": twice(cudnn),
    "two flash-attn calls + merge": twice(flash_attn),
    "two FlashInfer calls + merge": twice(flashinfer),
    "two xFormers calls + merge": twice(xformers, _merge_of_xformers),
}
# By peer: the package it comes from, as `import` and as its index know it.
PACKAGES = {
    "two flash-attn calls + merge": ("flash_attn", "flash-attn"),
    "two FlashInfer calls + merge": ("flashinfer", "flashinfer-python"),
    "two xFormers calls + merge": ("xformers", "xformers"),
}


def missing(name: str) -> str | None:
    """Why a peer's package is not here, or None."""
    module, package = PACKAGES.get(name, ("torch", "torch"))
    return None if importlib.util.find_spec(module) else f"{package} is not installed"
