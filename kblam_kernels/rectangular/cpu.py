"""Rectangular attention on the CPU by the C++ kernels of `csrc/`."""

from __future__ import annotations

from collections.abc import Callable

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
    attend = bound(knowledge_key, knowledge_value, scale, window)
    return attend(query, key, value, knowledge_query, bias, prompt_mask, knowledge_range)


def bound(
    knowledge_key: Tensor, knowledge_value: Tensor, scale: float, window: int | None
) -> Callable[..., tuple[Tensor, Tensor]]:
    """`forward` with all that a decode loop repeats in place: `f(query, key, value, r, bias, prompt_mask, range)`."""
    op = torch.ops.kblam_kernels.rectangular_forward_cpu.default
    kernels = native.wanted_instruction_set()

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        knowledge_query: Tensor,
        bias: Tensor | None,
        prompt_mask: Tensor | None,
        knowledge_range: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        rows = in_rows(bias, prompt_mask, knowledge_range)
        output, lse = op(
            query, key, value, knowledge_key, knowledge_value, knowledge_query, *rows, scale, window, kernels
        )
        return output, lse

    return attend


def in_rows(
    bias: Tensor | None, prompt_mask: Tensor | None, knowledge_range: Tensor | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Bias, mask and range in strides and dtypes that the kernels read; a view that is one is not copied."""
    if bias is not None and bias.stride(1) not in (0, 1):
        bias = bias.contiguous()
    if prompt_mask is not None and prompt_mask.stride(1) != 1:
        prompt_mask = prompt_mask.contiguous()
    if knowledge_range is not None:
        # No row sees 2 ** 31 tokens.
        wide = knowledge_range.dtype == torch.int64
        knowledge_range = (
            (knowledge_range.clamp(0, 2**31 - 1) if wide else knowledge_range).to(torch.int32).contiguous()
        )
    return bias, prompt_mask, knowledge_range
