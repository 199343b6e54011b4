"""Attention to dense knowledge as an op: its backends."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

from kblam_kernels.common import dispatch
from kblam_kernels.common.op import Op
from kblam_kernels.common.splits import MAX_DECODE_QUERIES
from kblam_kernels.common.tiles import TILE_VARIABLE
from kblam_kernels.dense.call import DenseCall


class DenseTriton(dispatch.Triton[DenseCall]):
    """Split decode for few queries and for knowledge alone, one pass for many."""

    def serving(self, call: DenseCall) -> ModuleType:
        # The batch has no say. A pinned KBLAM_TILE is one of the single pass, which then serves all.
        is_split = call.query.shape[2] <= MAX_DECODE_QUERIES and not os.environ.get(TILE_VARIABLE)
        name = "triton_decode" if call.is_alone or is_split else "triton_forward"
        return importlib.import_module(f"kblam_kernels.dense.{name}")


DENSE_BACKENDS: tuple[dispatch.Backend[DenseCall], ...] = (
    DenseTriton(),
    dispatch.Cpu("kblam_kernels.dense.cpu"),
    dispatch.Reference("kblam_kernels.dense.reference"),
)

dense_attention = Op("dense_attention", DenseCall, DENSE_BACKENDS)
