"""Attention to dense knowledge as an op: its backends."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

from torch import Tensor

from kblam_kernels.common import dispatch
from kblam_kernels.common.call import Saved
from kblam_kernels.common.launch import target_arch
from kblam_kernels.common.op import Op
from kblam_kernels.common.splits import MAX_DECODE_QUERIES
from kblam_kernels.common.tiles import TILE_VARIABLE, precision_of
from kblam_kernels.dense.call import DenseCall
from kblam_kernels.dense.tiles import backward_tile
from kblam_kernels.errors import UnsupportedInputError


class DenseTriton(dispatch.Triton[DenseCall]):
    """Split decode for few queries, one pass for many."""

    def serving(self, call: DenseCall) -> ModuleType:
        # The batch has no say. A pinned KBLAM_TILE is one of the single pass, which then serves all.
        is_split = call.query.shape[2] <= MAX_DECODE_QUERIES and not os.environ.get(TILE_VARIABLE)
        name = "triton_decode" if is_split else "triton_forward"
        return importlib.import_module(f"kblam_kernels.dense.{name}")

    def backward_reasons(self, call: DenseCall) -> list[str]:
        try:
            backward_tile(target_arch(call.query), call.width, precision_of(call.query.dtype))
        except UnsupportedInputError as error:
            return [str(error)]
        return []

    def backward(self, call: DenseCall, saved: Saved) -> dict[str, Tensor]:
        from kblam_kernels.dense import triton_backward

        return triton_backward.backward(call, saved)


dense_attention = Op(
    "dense_attention",
    DenseCall,
    (DenseTriton(), dispatch.Cpu("kblam_kernels.dense.cpu"), dispatch.Reference("kblam_kernels.dense.reference")),
)
