"""Attention to latents in plain PyTorch: the specification of the op. The maths is in this folder's README.

Accumulates in float32 (float64 for float64 inputs) and goes over both blocks in column chunks, as the reference of the
dense layout does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kblam_kernels.common.columns import chunks, knowledge_offset, take_prompt
from kblam_kernels.common.softmax import OnlineSoftmax, accumulation_dtype
from kblam_kernels.latent.absorption import Absorbed, Mixed, projected
from kblam_kernels.latent.call import LatentCall


def forward(call: LatentCall) -> tuple[Tensor, Tensor]:
    """Output and lse."""
    return projected(call, mix)


def mix(call: LatentCall, absorbed: Absorbed) -> Mixed:
    """One softmax over knowledge and prompt, with the knowledge scores

    scale * norm * (key_scale * (absorbed.query . e) + absorbed.constant) + bias
    """
    B, Hq, _, N, _, D, M, P = call.sizes
    dtype, device = accumulation_dtype(call.query), call.query.device
    prompt, knowledge = (OnlineSoftmax((B, Hq, N), width, dtype, device) for width in (D, P))
    row = take_prompt(prompt, call)
    # Every head of every row reads the same latents: one matrix product for all of them.
    a = absorbed.query.to(dtype).flatten(0, 2)
    for cols in chunks(M):
        keys = call.latent_key[cols].to(dtype)
        products = (a @ keys.T).view(B, Hq, N, len(keys))
        if call.key_scale is not None:
            products = products * call.key_scale[cols]
        scores = (products + absorbed.constant[..., None]) * (call.norm[cols] * call.scale)
        offset = knowledge_offset(call.bias, call.knowledge_range, cols, dtype, device)
        weights = knowledge.rescale(scores if offset is None else scores + offset)
        if call.value_scale is not None:
            weights = weights * call.value_scale[cols]
        mixed = weights.flatten(0, 2) @ call.latent_value[cols].to(dtype)
        knowledge.output = knowledge.output + mixed.view(B, Hq, N, P)

    maximum = torch.maximum(prompt.maximum, knowledge.maximum)
    # +inf where a row saw nothing: its weights are 0.
    level = maximum.masked_fill(~row, float("inf"))
    of_prompt, of_knowledge = torch.exp(prompt.maximum - level), torch.exp(knowledge.maximum - level)
    total = prompt.total * of_prompt + knowledge.total * of_knowledge
    safe = total.masked_fill(~row, 1.0)
    return Mixed(
        prompt.output * of_prompt[..., None] / safe[..., None],
        (knowledge.output * of_knowledge[..., None] / safe[..., None]).to(call.query.dtype),
        knowledge.total * of_knowledge / safe,
        maximum + total.log(),
    )
