"""Attention mass of each knowledge token, and the lse of knowledge scores, on the CPU by the C++ kernels of `csrc/`.

Each is one pass over the keys.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kblam_kernels.common import native
from kblam_kernels.evidence.call import EvidenceCall


def forward(call: EvidenceCall) -> tuple[Tensor]:
    """As `reference.forward`, in float32. Bits do not depend on the number of threads or on the rest of the batch."""
    rows, key, norm, key_scale, constant, bias, knowledge_range = _scored(call)
    result = torch.ops.kblam_kernels.evidence_mass_cpu(
        rows,
        key,
        norm,
        key_scale,
        constant,
        call.lse.contiguous(),
        bias,
        knowledge_range,
        call.row_weight.to(torch.float32).contiguous(),
        call.scale,
        call.int8_products,
        native.wanted_instruction_set(),
    )
    return (result,)


def knowledge_lse(call: EvidenceCall) -> Tensor:
    """As `reference.knowledge_lse`, in float32, with the same promise about bits; no gradient."""
    result = torch.empty(call.rows.shape[:3], dtype=torch.float32)
    torch.ops.kblam_kernels.knowledge_lse_cpu(
        *_scored(call), result, call.scale, call.int8_products, native.wanted_instruction_set()
    )
    return result


def _scored(call: EvidenceCall) -> tuple[Tensor | None, ...]:
    """What gives the scores, as the C++ ops read it."""
    bias, _, knowledge_range = native.kernel_layout(call.bias, None, call.knowledge_range)
    norm, key_scale, constant = map(native.contiguous_or_none, (call.norm, call.key_scale, call.constant))
    return call.rows, call.key, norm, key_scale, constant, bias, knowledge_range


def is_one_op(call: EvidenceCall) -> bool:
    """No: the C++ op has no fake."""
    return False
