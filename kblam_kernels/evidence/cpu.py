"""Attention mass of each knowledge token, and the lse of knowledge scores, on the CPU by the C++ kernels of `csrc/`.

Each is one pass over the keys, or over chosen blocks of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kblam_kernels.common import memory, native
from kblam_kernels.evidence.call import EvidenceCall, num_blocks


def forward(call: EvidenceCall) -> tuple[Tensor]:
    """As `reference.forward`, in float32. Bits do not depend on the number of threads or on the rest of the batch."""
    result = torch.ops.kblam_kernels.evidence_mass_cpu(
        *_weighed(call), call.scale, call.int8_products, native.wanted_instruction_set()
    )
    return (result,)


def of_blocks(call: EvidenceCall, rows: Tensor, blocks: Tensor) -> Tensor:
    """The masses of chosen blocks alone, float32 (n, BLOCK), those of `forward` bit for bit; 0 past the last token.

    Args:
        rows, blocks: int64 (n,), a row of the batch and one of its blocks, contiguous.
    """
    result: Tensor = torch.ops.kblam_kernels.evidence_blocks_cpu(
        *_weighed(call), rows, blocks, call.scale, call.int8_products, native.wanted_instruction_set()
    )
    return result


def knowledge_lse(call: EvidenceCall, *, with_block_max: bool = False) -> tuple[Tensor, Tensor | None]:
    """As `reference.knowledge_lse` and `block_max`, in float32, with the same promise about bits; no gradient."""
    shape, blocks = call.rows.shape[:3], num_blocks(call.num_tokens)
    lse = memory.empty(call.rows, *shape, dtype=torch.float32)
    block_max = memory.empty(call.rows, *shape, blocks, dtype=torch.float32) if with_block_max else None
    torch.ops.kblam_kernels.knowledge_lse_cpu(
        *_scored(call), lse, block_max, call.scale, call.int8_products, native.wanted_instruction_set()
    )
    return lse, block_max


def _scored(call: EvidenceCall) -> tuple[Tensor | None, ...]:
    """What gives the scores, as the C++ ops read it."""
    bias, _, knowledge_range = native.kernel_layout(call.bias, None, call.knowledge_range)
    norm, key_scale, constant = map(native.contiguous_or_none, (call.norm, call.key_scale, call.constant))
    return call.rows, call.key, norm, key_scale, constant, bias, knowledge_range


def _weighed(call: EvidenceCall) -> tuple[Tensor | None, ...]:
    """What gives the masses, as the C++ ops read it."""
    *scored, bias, knowledge_range = _scored(call)
    return *scored, call.lse.contiguous(), bias, knowledge_range, call.row_weight.to(torch.float32).contiguous()


def is_one_op(call: EvidenceCall) -> bool:
    """No: the C++ op has no fake."""
    return False
