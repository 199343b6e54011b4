"""The `torch.library` op of latent attention, so that `torch.compile` keeps one graph. It has no gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from kblam_kernels.latent.backends import LATENT_BACKENDS
from kblam_kernels.latent.reference import LatentOutput
from kblam_kernels.rectangular.reference import accumulation_dtype


def empty_output(query: Tensor, P: int, skip_threshold: float) -> LatentOutput:
    """Unwritten results, and tile counts of 0.

    `latent` is (Hq, B, N, P) in memory: the value projection is one matrix product a head.
    """
    B, Hq, N, D = query.shape
    dtype, device = accumulation_dtype(query), query.device
    return LatentOutput(
        torch.empty(B, Hq, N, D, dtype=dtype, device=device),
        torch.empty(Hq, B, N, P, dtype=query.dtype, device=device).transpose(0, 1),
        torch.empty(B, Hq, N, dtype=dtype, device=device),
        torch.empty(B, Hq, N, dtype=dtype, device=device),
        torch.zeros(2 if skip_threshold else 0, dtype=torch.int64, device=device),
    )


@torch.library.custom_op("kblam_kernels::latent_forward", mutates_args=())
def latent_forward(
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
    skip_threshold: float,
    int8_products: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`LatentOutput` of one backend; arguments as `reference.forward`."""
    from kblam_kernels.dispatch import forward_of

    # A permission; only the C++ kernels make use of it.
    allowed = {"int8_products": int8_products} if backend == "cpu" else {}
    prompt, latent, share, lse, tiles = forward_of(backend, LATENT_BACKENDS)(
        query,
        key,
        value,
        latent_key,
        latent_value,
        norm,
        key_scale,
        value_scale,
        absorbed_query,
        constant,
        bias,
        prompt_mask,
        knowledge_range,
        scale,
        window,
        skip_threshold,
        **allowed,
    )
    # One memory layout whatever the backend; a backend that wrote it already is not copied.
    return prompt.contiguous(), latent.transpose(0, 1).contiguous().transpose(0, 1), share, lse, tiles


@latent_forward.register_fake
def _(
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
    skip_threshold: float,
    int8_products: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    prompt, latent, share, lse, tiles = empty_output(query, latent_key.shape[1], skip_threshold)
    return prompt, latent, share, lse, tiles
