"""Both ends of attention to latents: queries absorb the key projection, mixed latents go through the value projection.

Between them a backend computes one softmax over both blocks, on latents alone. The maths is in this folder's README.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from kblam_kernels.common.columns import times_knowledge
from kblam_kernels.common.softmax import accumulation_dtype, in_model_layout
from kblam_kernels.latent.call import LatentCall
from kblam_kernels.precision import exactly


class Absorbed(NamedTuple):
    """Knowledge queries after absorption, ready to be multiplied with latents.

    Args:
        query: (B, Hq, N, P) in the query's dtype, key_weight' r.
        constant: (B, Hq, N) in the accumulation dtype, r . key_bias.
    """

    query: Tensor
    constant: Tensor


class Mixed(NamedTuple):
    """The result of one softmax over both blocks, before the value projection.

    Args:
        prompt: (B, Hq, N, D), accumulation dtype; sum over the prompt of p * v.
        latent: (B, Hq, N, P), dtype of the query; sum over knowledge of p * f.
        share: (B, Hq, N), accumulation dtype; sum over knowledge of p.
        lse: (B, Hq, N), accumulation dtype; natural-log sum of exponentials over both blocks.
    """

    prompt: Tensor
    latent: Tensor
    share: Tensor
    lse: Tensor


Mix = Callable[[LatentCall, Absorbed], Mixed]


def absorb_query(knowledge_query: Tensor, key_weight: Tensor, key_bias: Tensor) -> Absorbed:
    """Absorbs r (B, Hq, N, D), with the weights of a `LatentProjection`."""
    dtype = accumulation_dtype(knowledge_query)
    constant = (knowledge_query.to(dtype) * key_bias.to(dtype)[:, None]).sum(-1)
    with exactly(knowledge_query.device):
        return Absorbed(times_knowledge(knowledge_query, key_weight), constant)


def projected(call: LatentCall, mix: Mix) -> tuple[Tensor, Tensor]:
    """Output (B, Hq, N, D) and lse (B, Hq, N) of a backend's `mix`, with both ends computed in PyTorch."""
    mixed = mix(call, absorb_query(call.knowledge_query, call.key_weight, call.key_bias))
    # (Hq, B, N, P) in memory makes the value projection one matrix product a head.
    latent = mixed.latent.transpose(0, 1).contiguous().transpose(0, 1)
    of_knowledge = times_knowledge(latent, call.value_weight.transpose(1, 2))
    output = mixed.prompt + of_knowledge + mixed.share[..., None] * call.value_bias[:, None]
    return in_model_layout(output.to(call.query.dtype)), mixed.lse
