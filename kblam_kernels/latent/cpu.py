"""Attention to latents on the CPU by the C++ kernels of `csrc/`."""

from __future__ import annotations

import torch
from torch import Tensor

from kblam_kernels import native
from kblam_kernels.latent.reference import LatentOutput
from kblam_kernels.rectangular.cpu import in_rows


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
    int8_products: bool = False,
) -> LatentOutput:
    """`LatentOutput`; arguments as `reference.forward`.

    The same bits for any number of threads and, with `skip_threshold` 0, for a row whatever the rest of its batch is.
    A tile that may be skipped is 128 tokens for 32 rows, and its running maximum is that of its chunk of the list.
    """
    results = torch.ops.kblam_kernels.latent_forward_cpu(
        query,
        key,
        value,
        latent_key,
        latent_value,
        norm.contiguous(),
        contiguous_or_none(key_scale),
        contiguous_or_none(value_scale),
        absorbed_query,
        constant.contiguous(),
        *in_rows(bias, prompt_mask, knowledge_range),
        scale,
        window,
        skip_threshold,
        int8_products,
        native.wanted_instruction_set(),
    )
    return LatentOutput(*results)


def contiguous_or_none(tensor: Tensor | None) -> Tensor | None:
    """As the kernels read it."""
    return None if tensor is None else tensor.contiguous()
