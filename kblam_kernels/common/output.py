"""The output of attention in the memory layout that a model reads without a copy."""

from __future__ import annotations

from torch import Tensor

from kblam_kernels.common import memory
from kblam_kernels.common.softmax import accumulation_dtype


def empty_output(query: Tensor) -> tuple[Tensor, Tensor]:
    """Unwritten (output (B, Hq, N, D), lse (B, Hq, N)).

    In memory the output is (B, N, Hq, D), so that a model's `transpose(1, 2).reshape(B, N, -1)` costs nothing.
    """
    B, Hq, N, D = query.shape
    output = memory.empty(query, B, N, Hq, D).transpose(1, 2)
    return output, memory.empty(query, B, Hq, N, dtype=accumulation_dtype(query))


def in_model_layout(output: Tensor) -> Tensor:
    """(B, Hq, N, D) in the memory layout of `empty_output`; copied only if it has another."""
    return output.transpose(1, 2).contiguous().transpose(1, 2)
