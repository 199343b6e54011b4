"""Attention to latents in plain PyTorch: the specification of the op. The maths is in this folder's README.

Accumulates in float32 (float64 for float64 inputs) and goes over both blocks in column chunks, as the reference of the
dense layout does.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kblam_kernels.rectangular.reference import (
    OnlineSoftmax,
    accumulation_dtype,
    chunks,
    knowledge_offset,
    prompt_visibility,
    times_grouped,
)


class LatentOutput(NamedTuple):
    """What one softmax over both blocks gave, before the value projection.

    Args:
        prompt: (B, Hq, N, D), accumulation dtype; sum over the prompt of p * v.
        latent: (B, Hq, N, P), dtype of the query; sum over knowledge of p * f.
        share: (B, Hq, N), accumulation dtype; sum over knowledge of p.
        lse: (B, Hq, N), accumulation dtype; natural-log sum of exponentials over both blocks.
        tiles: int64 (2,), value tiles skipped and visited; (0,) where skipping is off.
    """

    prompt: Tensor
    latent: Tensor
    share: Tensor
    lse: Tensor
    tiles: Tensor


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
) -> LatentOutput:
    """One softmax over knowledge and prompt, with the knowledge scores

        scale * norm * (key_scale * (absorbed_query . e) + constant) + bias

    Args:
        query, key, value, prompt_mask, scale, window: as `rectangular_attention`.
        latent_key, latent_value, norm, key_scale, value_scale: (M, P) twice and (M,), as `LatentKnowledge`.
        absorbed_query: (B, Hq, N, P), key_weight' r.
        constant: (B, Hq, N) accumulation dtype, r . key_bias.
        bias: float32 (M,) for each row of the batch or for all: (B or 1, M); or None.
        knowledge_range: int32 (B or 1, 2), or None.
        skip_threshold: in [0, 1); the values of a tile of tokens are left out when exp(score - running maximum) is
            below it for every row and token of the tile. Sums, so share and lse too, are of all tokens. Here a tile
            is a column chunk; every backend has tiles of its own, and its own running maximum.
    """
    B, Hq, N, D = query.shape
    T, (M, P) = key.shape[2], latent_key.shape
    dtype, device = accumulation_dtype(query), query.device
    prompt = OnlineSoftmax((B, Hq, N), D, dtype, device)
    sees_prompt = torch.zeros(B, N, dtype=torch.bool, device=device)
    q = query.to(dtype) * scale
    for cols in chunks(T):
        visible = prompt_visibility(N, T, cols, prompt_mask, window, device)
        sees_prompt = sees_prompt | visible.any(-1)
        scores = times_grouped(q, key[:, :, cols].to(dtype).transpose(-1, -2))
        weights = prompt.rescale(scores.masked_fill(~visible[:, None], float("-inf")))
        prompt.output = prompt.output + times_grouped(weights, value[:, :, cols].to(dtype))

    knowledge = OnlineSoftmax((B, Hq, N), P, dtype, device)
    # Every head of every row reads the same latents: one matrix product for all of them.
    a = absorbed_query.to(dtype).reshape(B * Hq * N, P)
    skipped = 0
    for cols in chunks(M):
        keys = latent_key[cols].to(dtype)
        products = (a @ keys.T).view(B, Hq, N, len(keys))
        if key_scale is not None:
            products = products * key_scale[cols]
        scores = (products + constant[..., None]) * (norm[cols] * scale)
        offset = knowledge_offset(bias, knowledge_range, cols, dtype, device)
        weights = knowledge.rescale(scores if offset is None else scores + offset)
        if skip_threshold and bool((weights < skip_threshold).all()):
            skipped += 1
            continue
        if value_scale is not None:
            weights = weights * value_scale[cols]
        mixed = weights.reshape(B * Hq * N, len(keys)) @ latent_value[cols].to(dtype)
        knowledge.output = knowledge.output + mixed.view(B, Hq, N, P)

    # A padding row sees no prompt column, so it sees no knowledge either.
    row = sees_prompt[:, None, :]
    maximum = torch.maximum(prompt.maximum, knowledge.maximum)
    # +inf where a row saw nothing: its weights are 0.
    level = maximum.masked_fill(~row, float("inf"))
    of_prompt, of_knowledge = torch.exp(prompt.maximum - level), torch.exp(knowledge.maximum - level)
    total = prompt.total * of_prompt + knowledge.total * of_knowledge
    safe = total.masked_fill(~row, 1.0)
    return LatentOutput(
        prompt.output * of_prompt[..., None] / safe[..., None],
        (knowledge.output * of_knowledge[..., None] / safe[..., None]).to(query.dtype),
        knowledge.total * of_knowledge / safe,
        maximum + total.log(),
        torch.tensor([skipped, len(list(chunks(M)))] if skip_threshold else [], dtype=torch.int64, device=device),
    )
