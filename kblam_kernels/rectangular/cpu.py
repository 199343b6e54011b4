"""Rectangular attention on the CPU by the C++ kernels of `csrc/`."""

from __future__ import annotations

import torch
from torch import Tensor

from kblam_kernels import native


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    knowledge_key: Tensor,
    knowledge_value: Tensor,
    knowledge_query: Tensor,
    bias: Tensor | None,
    prompt_mask: Tensor | None,
    knowledge_range: Tensor | None,
    scale: float,
    window: int | None,
) -> tuple[Tensor, Tensor]:
    """Output (B, Hq, N, D) and float32 lse (B, Hq, N); arguments as `reference.forward`.

    The same bits for any number of threads, and for a row whatever the other rows of the batch are.
    """
    bias, prompt_mask, knowledge_range = in_rows(bias, prompt_mask, knowledge_range)
    output, lse = torch.ops.kblam_kernels.rectangular_forward_cpu(
        query,
        key,
        value,
        knowledge_key,
        knowledge_value,
        knowledge_query,
        bias,
        prompt_mask,
        knowledge_range,
        scale,
        window,
        native.wanted_instruction_set(),
    )
    return output, lse


def in_rows(
    bias: Tensor | None, prompt_mask: Tensor | None, knowledge_range: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Bias, mask and range in strides and dtypes that the kernels read; a view that is one is not copied."""
    if bias is not None and bias.stride(1) not in (0, 1):
        bias = bias.contiguous()
    if prompt_mask is not None and prompt_mask.stride(1) != 1:
        prompt_mask = prompt_mask.contiguous()
    if knowledge_range is not None:
        knowledge_range = knowledge_range.to(torch.int64).contiguous()
    return bias, prompt_mask, knowledge_range
