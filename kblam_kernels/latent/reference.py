"""Attention to latents in plain PyTorch: the specification of the op. The maths is in this folder's README.

Accumulates in float32 (float64 for float64 inputs) and goes over both blocks in column chunks, as the reference of the
dense layout does.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kblam_kernels.common.call import Saved
from kblam_kernels.common.columns import inside_range, mix_knowledge, score_chunks, take_prompt
from kblam_kernels.common.softmax import OnlineSoftmax, accumulation_dtype
from kblam_kernels.latent import pieces
from kblam_kernels.latent.absorption import Absorbed, Mixed, projected
from kblam_kernels.latent.call import LatentCall


def forward(call: LatentCall) -> tuple[Tensor, Tensor]:
    """Output and lse."""
    return projected(call, mix)


def backward(call: LatentCall, saved: Saved) -> dict[str, Tensor]:
    """Gradients, from the keys and values that the latents stand for, by the backward of the dense op that serves."""
    return pieces.backward(call, saved)


def mix(call: LatentCall, absorbed: Absorbed) -> Mixed:
    """One softmax over knowledge and prompt."""
    rows, dtype, device = tuple(call.query.shape[:3]), accumulation_dtype(call.query), call.query.device
    prompt, knowledge = (OnlineSoftmax(rows, t.shape[-1], dtype, device) for t in (call.query, call.latent_value))
    row = take_prompt(prompt, call)
    # Every head of every row reads the same latents: rows in one piece are one matrix product for all of them.
    query, constant = absorbed.query.clone(memory_format=torch.contiguous_format), absorbed.constant
    for cols, of_columns in score_chunks(call, query, call.latent_key, constant, call.norm, call.key_scale):
        weights = knowledge.rescale(of_columns)
        inside = inside_range(call.knowledge_range, cols, device)
        if call.value_scale is not None:
            weights = weights * call.value_scale[cols]
            weights = weights if inside is None else weights.masked_fill(~inside, 0)
        knowledge.output = knowledge.output + mix_knowledge(weights, call.latent_value[cols].to(dtype), inside)

    maximum = torch.maximum(prompt.maximum, knowledge.maximum)
    if call.is_alone:
        row = maximum != float("-inf")
    of_prompt, of_knowledge = torch.exp(prompt.maximum - maximum), torch.exp(knowledge.maximum - maximum)
    total = prompt.total * of_prompt + knowledge.total * of_knowledge
    latent = knowledge.output * of_knowledge[..., None] / total[..., None]
    # A row that saw nothing may hold NaN.
    return Mixed(
        torch.where(row[..., None], prompt.output * of_prompt[..., None] / total[..., None], 0.0),
        torch.where(row[..., None], latent, 0.0).to(call.query.dtype),
        torch.where(row, knowledge.total * of_knowledge / total, 0.0),
        torch.where(row, maximum + total.log(), float("-inf")),
    )
