"""Attention mass of each knowledge token on the CPU by the C++ kernels of `csrc/`: one pass over the keys."""

from __future__ import annotations

import torch
from torch import Tensor

from kblam_kernels import native


def mass(
    rows: Tensor,
    key: Tensor,
    norm: Tensor | None,
    key_scale: Tensor | None,
    constant: Tensor | None,
    lse: Tensor,
    bias: Tensor | None,
    knowledge_range: Tensor | None,
    row_weight: Tensor,
    scale: float,
) -> Tensor:
    """`reference.mass`, in float32. The same bits for any number of threads and whatever the rest of the batch is."""
    if bias is not None and bias.stride(1) not in (0, 1):
        bias = bias.contiguous()
    if knowledge_range is not None:
        knowledge_range = knowledge_range.to(torch.int64).contiguous()
    result: Tensor = torch.ops.kblam_kernels.evidence_mass_cpu(
        rows,
        key,
        None if norm is None else norm.contiguous(),
        None if key_scale is None else key_scale.contiguous(),
        None if constant is None else constant.contiguous(),
        lse.contiguous(),
        bias,
        knowledge_range,
        row_weight.to(torch.float32).contiguous(),
        scale,
        native.wanted_instruction_set(),
    )
    return result
