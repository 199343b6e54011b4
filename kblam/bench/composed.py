"""Attention to latents without a kernel of its own: matrix products on absorbed queries, and one softmax between.

What an engineer writes who knows the algebra and has PyTorch alone; compiled, so that all between two products is
fused. Scores stand in memory, (B, Hq, N, M).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from kblam_kernels import LatentKnowledge


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    latent_key: Tensor,
    latent_value: Tensor,
    norm: Tensor,
    key_weight: Tensor,
    key_bias: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
    bias: float,
) -> Tensor:
    B, Hq, N, D = query.shape
    Hkv, T = key.shape[1:3]
    dtype, scale = query.dtype, D**-0.5
    # All rows of all heads are one matrix: a batched product would copy the latents for every head.
    absorbed = (query.transpose(0, 1).reshape(Hq, B * N, D) @ key_weight).view(Hq * B * N, -1)
    scores = (absorbed @ latent_key.T).view(Hq, B, N, -1).transpose(0, 1)
    constant = (query.float() * key_bias.float()[:, None]).sum(-1, keepdim=True)
    known = (scores.float() + constant) * (norm * scale) + bias
    # Query heads of one key head are rows of one product.
    rows = query.view(B, Hkv, Hq // Hkv * N, D)
    prompt = (rows @ key.transpose(-1, -2)).view(B, Hq, N, T).float() * scale
    if N > 1:
        hidden = torch.ones(N, T, dtype=torch.bool, device=query.device).triu(T - N + 1)
        prompt = prompt.masked_fill(hidden, float("-inf"))
    level = torch.maximum(known.amax(-1, keepdim=True), prompt.amax(-1, keepdim=True))
    known, prompt = torch.exp(known - level), torch.exp(prompt - level)
    share = known.sum(-1, keepdim=True)
    total = share + prompt.sum(-1, keepdim=True)
    weights = (known / total).to(dtype).transpose(0, 1).reshape(Hq * B * N, -1)
    mixed = (weights @ latent_value).view(Hq, B * N, -1)
    of_knowledge = (mixed @ value_weight.transpose(1, 2)).view(Hq, B, N, D).transpose(0, 1)
    of_prompt = ((prompt / total).to(dtype).view(B, Hkv, Hq // Hkv * N, T) @ value).view(B, Hq, N, D)
    return (of_knowledge.float() + of_prompt.float() + share / total * value_bias.float()[:, None]).to(dtype)


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(_attention, dynamic=False)


def composed_latent(
    query: Tensor, key: Tensor, value: Tensor, knowledge: LatentKnowledge, bias: float
) -> Callable[[], Tensor]:
    """Attention of query (B, Hq, N, D) to a prompt (B, Hkv, T, D) and latents: compiled on a GPU."""
    attention = _compiled() if query.is_cuda else _attention
    p = knowledge.projection
    weights = (p.key_weight, p.key_bias, p.value_weight, p.value_bias)
    return lambda: attention(query, key, value, knowledge.key, knowledge.value, knowledge.norm, *weights, bias)
