"""Triton's interpreter for the decode kernels."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def interpreted(poisoned_memory: None) -> ModuleType:
    """`latent.triton_decode` under Triton's interpreter; memory from `torch.empty` is NaN until it is written."""
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("TRITON_INTERPRET=0: kernels are compiled in this run")
    from kblam_kernels.latent import triton_decode

    return triton_decode


@pytest.fixture
def rows_apart(interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrix products row by row, as a matrix instruction makes them.

    The interpreter hands them to a BLAS, where a row's bits depend on its place in the matrix.
    """
    from triton.runtime import interpreter

    def create_dot(self: Any, a: Any, b: Any, acc: Any, *options: Any) -> Any:
        rows = [row.astype(np.float64) @ b.data.astype(np.float64) for row in a.data]
        return interpreter.TensorHandle(np.stack(rows).astype(np.float32) + acc.data, acc.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
