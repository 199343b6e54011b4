"""Attention mass of each knowledge token on the CPU by the C++ kernels of `csrc/`: one pass over the keys."""

from __future__ import annotations

import torch
from torch import Tensor

from kblam_kernels.common import native
from kblam_kernels.evidence.call import EvidenceCall


def forward(call: EvidenceCall) -> tuple[Tensor]:
    """As `reference.forward`, in float32. Bits do not depend on the number of threads or on the rest of the batch."""
    bias, _, knowledge_range = native.kernel_layout(call.bias, None, call.knowledge_range)
    result = torch.ops.kblam_kernels.evidence_mass_cpu(
        call.rows,
        call.key,
        native.contiguous_or_none(call.norm),
        native.contiguous_or_none(call.key_scale),
        native.contiguous_or_none(call.constant),
        call.lse.contiguous(),
        bias,
        knowledge_range,
        call.row_weight.to(torch.float32).contiguous(),
        call.scale,
        call.int8_products,
        native.wanted_instruction_set(),
    )
    return (result,)


def is_one_op(call: EvidenceCall) -> bool:
    """No: the C++ op has no fake."""
    return False
