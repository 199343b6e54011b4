"""Attention to dense knowledge as an op: its backends and its gradient."""

from __future__ import annotations

import os

from torch import Tensor

from kblam_kernels.common import dispatch
from kblam_kernels.common.op import Op
from kblam_kernels.common.output import empty_output, in_model_layout
from kblam_kernels.common.splits import MAX_DECODE_QUERIES
from kblam_kernels.common.tiles import TILE_VARIABLE
from kblam_kernels.dense.call import DenseCall

Tensors = tuple[Tensor, ...]


def is_split(N: int) -> bool:
    """Whether N new queries go to split decode. With a pinned KBLAM_TILE, the single pass serves all."""
    return N <= MAX_DECODE_QUERIES and not os.environ.get(TILE_VARIABLE)


class DenseReference(dispatch.Reference[DenseCall]):
    def forward(self, call: DenseCall) -> Tensors:
        from kblam_kernels.dense import reference

        output, lse = reference.forward(call)
        return in_model_layout(output), lse

    def backward(self, call: DenseCall, results: Tensors, gradients: Tensors) -> Tensors:
        from kblam_kernels.dense import reference

        return reference.backward(call, *results, *gradients)


class DenseCpu(dispatch.Cpu[DenseCall]):
    def forward(self, call: DenseCall) -> Tensors:
        from kblam_kernels.dense import cpu

        return cpu.forward(call)

    def is_one_op(self, call: DenseCall) -> bool:
        return True


class DenseTriton(dispatch.Triton[DenseCall]):
    """Split decode for few queries, one pass for many."""

    def forward(self, call: DenseCall) -> Tensors:
        if is_split(call.query.shape[2]):
            from kblam_kernels.dense import triton_decode

            return triton_decode.forward(call)
        from kblam_kernels.dense import triton_forward

        return triton_forward.forward(call)


DENSE_BACKENDS = (DenseTriton(), DenseCpu(), DenseReference())

dense_attention: Op[DenseCall] = Op(
    "dense_attention",
    DenseCall,
    DENSE_BACKENDS,
    backwards=(DenseReference(),),
    results=("output", "lse"),
    empty=lambda call: empty_output(call.query),
)
