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


def is_split(N: int) -> bool:
    """Whether N new queries go to split decode. With a pinned KBLAM_TILE, the single pass serves all."""
    return N <= MAX_DECODE_QUERIES and not os.environ.get(TILE_VARIABLE)


class DenseTriton(dispatch.Triton[DenseCall]):
    """Split decode for few queries and for knowledge alone, one pass for many."""

    def serving(self, call: DenseCall) -> ModuleType:
        name = "triton_decode" if call.is_alone or is_split(call.query.shape[2]) else "triton_forward"
        return importlib.import_module(f"kblam_kernels.dense.{name}")


DENSE_BACKENDS: tuple[dispatch.Backend[DenseCall], ...] = (
    DenseTriton(),
    dispatch.Cpu("kblam_kernels.dense.cpu"),
    dispatch.Reference("kblam_kernels.dense.reference"),
)

dense_attention = Op("dense_attention", DenseCall, DENSE_BACKENDS)
