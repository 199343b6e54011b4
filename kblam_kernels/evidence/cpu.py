"""Attention mass of each knowledge token on the CPU by the C++ kernels of `csrc/`: one pass over the keys."""

from __future__ import annotations

import torch
from torch import Tensor

from kblam_kernels import native
from kblam_kernels.rectangular.cpu import in_rows


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
    bias, _, knowledge_range = in_rows(bias, None, knowledge_range)
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
